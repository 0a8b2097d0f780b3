"""Images that a U-Net is to remember while it learns: given, or drawn by the model before it is trained."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tadp.errors import ImageError
from tadp.files.atomic import replace_file
from tadp.files.checks import check_whole
from tadp.images.reading import to_pil
from tadp.personalize.run_options import RunOptions
from tadp.personalize.sampling import Sampler
from tadp.personalize.trained_model import DiffusionModel
from tadp.personalize.training_images import PRIOR, Images, TrainingImages, read_images

_STREAM = 2  # of random numbers
_AT_ONCE = 4


def prior_images(
    model: DiffusionModel,
    images: Images | int,
    *,
    prompt: str,
    like: TrainingImages,
    options: RunOptions,
) -> TrainingImages:
    """Read the images, or draw as many as asked.

    Drawn ones are written to OUTPUT/prior-…/0000.png, and not drawn again when a run goes on, unless one is damaged.

    Args:
        model: As it is before training.
        images: Images as `learn_token` takes them, or how many to draw.
        prompt: What to draw.
        like: How they are cropped, and how large: as these are.
        options: The run's seed and output; without one they stay in memory.

    Raises:
        ImageError: If an image cannot be read.
        MissingFileError: If the model has no decoder to draw with.
        OutputError: If a drawing cannot be written.
        TypeError: If the number is none.
        ValueError: If fewer than one is asked for.
    """
    if not isinstance(images, int):
        return read_images(images, side_px=like.side_px, flip=like.flip, random_crop=like.random_crop)
    check_whole(images, name="prior_images")
    pixels = [np.asarray(image) for image in _drawn(model, images, prompt, like.side_px, options)]
    return TrainingImages(pixels, side_px=like.side_px, flip=like.flip, random_crop=like.random_crop)


def _drawn(model: DiffusionModel, count: int, prompt: str, side_px: int, options: RunOptions) -> list[Image.Image]:
    source = model.backbone.source
    made_from = json.dumps([source and source.name, source and source.revision, prompt, options.seed, side_px])
    folder = (
        None
        if options.output is None
        else options.output / f"{PRIOR}{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    )
    sampler = None
    drawn: list[Image.Image] = []
    # Always the same together, so that a run that goes on draws what it would have drawn.
    for start in tqdm(range(0, count, _AT_ONCE), desc="drawing prior images", disable=not options.progress):
        numbers = range(start, start + _AT_ONCE)
        paths = [] if folder is None else [folder / f"{number:04}.png" for number in numbers]
        kept = _kept(paths)
        if kept is not None:
            drawn += kept
            continue
        sampler = sampler or Sampler(model)
        keys = [(options.seed, _STREAM, number) for number in numbers]
        batch = sampler.draw([prompt] * _AT_ONCE, keys=keys, side_px=side_px)
        for path, image in zip(paths, batch, strict=False):
            with replace_file(path) as part:
                image.save(part, format="PNG")
        drawn += batch
    return drawn[:count]


def _kept(paths: list[Path]) -> list[Image.Image] | None:
    """What was drawn before; None if one is missing or damaged, as all are drawn together."""
    if not paths or not all(path.exists() for path in paths):
        return None
    try:
        return [to_pil(path) for path in paths]
    except ImageError:
        return None
