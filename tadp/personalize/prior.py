"""Images that a U-Net is to remember while it learns: given, or drawn by the model before it is trained."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tadp.files import replace_file
from tadp.personalize.images import Images, TrainingImages, read_images
from tadp.personalize.model import DiffusionModel
from tadp.personalize.sampling import Sampler

_STREAM = 2  # of random numbers
_AT_ONCE = 4


def prior_images(
    model: DiffusionModel,
    images: Images | int,
    *,
    prompt: str,
    seed: int,
    side_px: int,
    output: Path | None,
    flip: bool,
    random_crop: bool,
    progress: bool,
) -> TrainingImages:
    """Read the images, or draw as many as asked.

    Drawn ones are written to OUTPUT/prior-…/0000.png, and not drawn again when a run goes on.

    Args:
        model: As it is before training.
        images: Images as `learn_token` takes them, or how many to draw.
        prompt: What to draw.
        seed: Of the drawings.
        side_px: Of the squares.
        output: Folder; None keeps them in memory.
        flip: See `TrainingImages`.
        random_crop: See `TrainingImages`.
        progress: Show a bar.

    Raises:
        ImageError: If an image cannot be read.
        MissingFileError: If the model has no decoder to draw with.
        OutputError: If a drawing cannot be written.
        ValueError: If fewer than one is asked for.
    """
    if not isinstance(images, int):
        return read_images(images, side_px=side_px, flip=flip, random_crop=random_crop)
    if images < 1:
        raise ValueError(f"prior_images is images, or how many to draw, 1 or more; got {images}.")
    drawn = _drawn(model, images, prompt, seed, side_px, output, progress)
    pixels = [np.asarray(image.convert("RGB")) for image in drawn]
    return TrainingImages(pixels, side_px=side_px, flip=flip, random_crop=random_crop)


def _drawn(
    model: DiffusionModel, count: int, prompt: str, seed: int, side_px: int, output: Path | None, progress: bool
) -> list[Image.Image]:
    source = model.backbone.source
    made_from = json.dumps([source and source.name, source and source.revision, prompt, seed, side_px])
    folder = None if output is None else output / f"prior-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    sampler = None
    drawn: list[Image.Image] = []
    # Always the same together, so that a run that goes on draws what it would have drawn.
    for start in tqdm(range(0, count, _AT_ONCE), desc="drawing prior images", disable=not progress):
        numbers = range(start, start + _AT_ONCE)
        paths = [] if folder is None else [folder / f"{number:04}.png" for number in numbers]
        if paths and all(path.exists() for path in paths):
            for path in paths:
                with Image.open(path) as image:
                    drawn.append(image.copy())
            continue
        sampler = sampler or Sampler(model)
        keys = [(seed, _STREAM, number) for number in numbers]
        batch = sampler.draw([prompt] * _AT_ONCE, keys=keys, side_px=side_px)
        for path, image in zip(paths, batch, strict=False):
            with replace_file(path) as part:
                image.save(part, format="PNG")
        drawn += batch
    return drawn[:count]
