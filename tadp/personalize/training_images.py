"""Training images with their texts. All images are read and checked before training."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tadp.captions.image_ids import ImageList
from tadp.errors import CaptionError, ImageError
from tadp.images.listing import list_images
from tadp.images.reading import ImageLike, to_pil

SAMPLES, PRIOR = "samples", "prior-"  # names of the output's folders with images that the model drew

Images = ImageLike | Sequence[ImageLike] | Iterator[ImageLike]
Captions = Sequence[str] | Mapping[str, str]


class Crop(NamedTuple):
    """A square of an image: its top left corner in pixels, and whether it is mirrored."""

    index: int
    top: int
    left: int
    mirrored: bool


class TrainingImages:
    """Training images of one concept, in memory, resized so that their shorter sides have the same length.

    Args:
        pixels: The images as RGB values, each (H, W, 3), uint8. The shorter side of each has `side_px` pixels.
        side_px: Side of the square crops in pixels.
        captions: One caption per image; None if the run has no captions.
        flip: Whether to mirror each crop with a probability of one half.
        random_crop: Whether to take each crop at a random place along the longer side. If not, crops are taken in the
            middle.
    """

    def __init__(
        self,
        pixels: Sequence[np.ndarray],
        *,
        side_px: int,
        captions: Sequence[str] | None = None,
        flip: bool = True,
        random_crop: bool = True,
    ):
        self.pixels, self.side_px, self.captions = list(pixels), side_px, None if captions is None else list(captions)
        self.flip, self.random_crop = flip, random_crop

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """A digest that identifies these images in this order."""
        digest = hashlib.sha256()
        for pixels in self.pixels:
            digest.update(repr(pixels.shape).encode() + pixels.tobytes())
        return digest.hexdigest()[:16]

    def middle(self, index: int) -> Crop:
        """The square in the middle of an image."""
        height, width = self.pixels[index].shape[:2]
        return Crop(index, (height - self.side_px) // 2, (width - self.side_px) // 2, False)

    def draw(self, index: int, rng: np.random.Generator) -> Crop:
        """A random square of an image. It always uses three random numbers."""
        height, width = self.pixels[index].shape[:2]
        down, right, mirror = rng.random(3)
        crop = self.middle(index)
        if self.random_crop:
            top, left = int(down * (height - self.side_px + 1)), int(right * (width - self.side_px + 1))
            crop = crop._replace(top=top, left=left)
        return crop._replace(mirrored=self.flip and bool(mirror < 0.5))

    def cut(self, crop: Crop) -> Float[Tensor, "1 3 s s"]:
        """The pixels of a crop, in [0, 1]."""
        square = self.pixels[crop.index][crop.top :, crop.left :][: self.side_px, : self.side_px]
        square = square[:, ::-1] if crop.mirrored else square
        return torch.from_numpy(square.transpose(2, 0, 1).copy())[None].float().div_(255)


@dataclass(frozen=True, eq=False)
class Concept:
    """Images and their training texts.

    Attributes:
        images: The images.
        texts: One or more texts per image; each time, one of them is drawn at random.
        weight: Weight of the loss of these images.
    """

    images: TrainingImages
    texts: Sequence[Sequence[str]]
    weight: float = 1.0


def read_images(
    images: Images,
    *,
    side_px: int,
    captions: Captions | None = None,
    skip_unreadable: bool = False,
    output: Path | None = None,
    flip: bool = True,
    random_crop: bool = True,
) -> TrainingImages:
    """Read images, and resize each so that its shorter side has a given length.

    Args:
        images: The images: a folder, a pattern, a list of paths, PIL images, arrays or tensors, or a batch.
        side_px: Length of the shorter side after resizing, in pixels.
        captions: Captions of the images: a list in the same order, or a mapping from image id to caption. An id is the
            path below the folder without suffix or, if the mapping lacks that, the file's name without suffix. None
            trains without captions.
        skip_unreadable: Whether to leave out images that cannot be read, with a warning that names them, instead of
            raising an error.
        output: The run's folder. Images that the run drew there are not used as training images. None if the run
            writes nothing to disk.
        flip: Whether crops will be mirrored with a probability of one half.
        random_crop: Whether crops will be taken at random places rather than in the middle.

    Raises:
        ImageError: If no images are found, or some cannot be read. The message names all of these.
        CaptionError: If the number of captions is not that of the images, or an image has no caption.
    """
    images = list(images) if isinstance(images, Iterator) else images
    sources = _sources(images, output)
    texts = _captions(captions, sources, images)
    pixels: list[np.ndarray] = []
    kept: list[int] = []
    wrong: list[str] = []
    for number, source in enumerate(sources):
        try:
            picture = to_pil(source)
        except ImageError as error:
            wrong.append(str(error) if isinstance(source, str | Path) else f"image {number}: {error}")
            continue
        pixels.append(np.asarray(_resized(picture, side_px)))
        kept.append(number)
    if wrong:
        problem = f"{len(wrong)} of {len(sources)} images cannot be used: {' '.join(wrong)}"
        if not skip_unreadable or not kept:
            raise ImageError(f"{problem} Repair or remove them; nothing was trained or written.")
        warnings.warn(f"{problem} The other images are used.", stacklevel=3)
    texts = None if texts is None else [texts[number] for number in kept]
    return TrainingImages(pixels, side_px=side_px, captions=texts, flip=flip, random_crop=random_crop)


def _sources(images: ImageLike | Sequence[ImageLike], output: Path | None) -> list[ImageLike]:
    if isinstance(images, str | Path):
        return list(_listed(images, output))
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, Sequence):
        return [images]
    listed: list[ImageLike] = []
    for image in images:
        listed.extend(_listed(image, output) if isinstance(image, str | Path) else [image])
    if not listed:
        raise ImageError("expected at least one image; got an empty list. Pass five to twenty images of one style.")
    return listed


def _listed(path: str | Path, output: Path | None) -> list[Path]:
    """The images that a path leads to, without those that the run itself drew, unless the path names such a file."""
    paths = list_images(path)
    if output is None or Path(path).is_file():
        return paths
    drawn = [folder.resolve() for folder in (output / SAMPLES, *output.glob(f"{PRIOR}*"))]
    rest = [image for image in paths if not any(image.resolve().is_relative_to(folder) for folder in drawn)]
    if not rest:
        raise ImageError(
            f"{str(path)!r} holds only images that this run itself drew; pass the folder of the training images."
        )
    return rest


def _captions(
    captions: Captions | None, sources: Sequence[ImageLike], images: ImageLike | Sequence[ImageLike]
) -> list[str] | None:
    if captions is None:
        return None
    if isinstance(captions, Mapping):
        paths = [source for source in sources if isinstance(source, str | Path)]
        if len(paths) < len(sources):
            number = next(number for number, source in enumerate(sources) if not isinstance(source, str | Path))
            raise CaptionError(
                f"captions by name need image files; image {number} is not a file. Pass a list of captions."
            )
        all_paths: Any = images
        keys = ImageList.of(all_paths).ids_in(captions)
        ids = {os.path.abspath(path): key for path, key in keys.items()}  # noqa: PTH100
        names = [ids[os.path.abspath(path)] for path in paths]  # noqa: PTH100
        missing = [name for name in names if name not in captions]
        if missing:
            hint = f" The ids of the captions look like {next(iter(captions))!r}." if len(captions) else ""
            raise CaptionError(f"{len(missing)} of {len(names)} images have no caption, such as {missing[0]!r}.{hint}")
        return [captions[name] for name in names]
    if isinstance(captions, str) or len(captions) != len(sources):
        count = "one string" if isinstance(captions, str) else len(captions)
        hint = " Open a caption file with CaptionTable.open(path)." if isinstance(captions, str) else ""
        raise CaptionError(f"there must be one caption for each of the {len(sources)} images; got {count}.{hint}")
    return list(captions)


def _resized(picture: Image.Image, side_px: int) -> Image.Image:
    shorter = min(picture.size)
    if shorter == side_px:
        return picture
    width, height = (max(side_px, round(side * side_px / shorter)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
