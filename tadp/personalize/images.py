"""The few images that a token or a U-Net is taught: all read and checked before anything is trained, cropped square."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tadp.errors import CaptionError, ImageError
from tadp.images import ImageLike, list_images, to_pil

Images = ImageLike | Sequence[ImageLike]
Captions = Sequence[str] | Mapping[str, str]


class Crop(NamedTuple):
    """A square of an image: its left upper corner in pixels, and whether it is mirrored."""

    index: int
    top: int
    left: int
    mirrored: bool


class TrainingImages:
    """Images of one concept, in memory, their shorter sides brought to one length.

    Args:
        pixels: (H, W, 3) arrays, uint8, whose shorter sides are `side_px`.
        side_px: Of the squares.
        captions: One an image, or None.
        flip: Mirror every other square, by chance.
        random_crop: Take squares anywhere; the middle otherwise.
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
        """Tells these images, in this order, from others."""
        digest = hashlib.sha256()
        for pixels in self.pixels:
            digest.update(repr(pixels.shape).encode() + pixels.tobytes())
        return digest.hexdigest()[:16]

    def middle(self, index: int) -> Crop:
        """The square in the middle of an image."""
        height, width = self.pixels[index].shape[:2]
        return Crop(index, (height - self.side_px) // 2, (width - self.side_px) // 2, False)

    def draw(self, index: int, rng: np.random.Generator) -> Crop:
        """A square of an image; takes three random numbers, whatever is drawn."""
        height, width = self.pixels[index].shape[:2]
        down, right, mirror = rng.random(3)
        crop = self.middle(index)
        if self.random_crop:
            top, left = int(down * (height - self.side_px + 1)), int(right * (width - self.side_px + 1))
            crop = crop._replace(top=top, left=left)
        return crop._replace(mirrored=self.flip and bool(mirror < 0.5))

    def cut(self, crop: Crop) -> Float[Tensor, "1 3 s s"]:
        """The square's pixels, in [0, 1]."""
        square = self.pixels[crop.index][crop.top :, crop.left :][: self.side_px, : self.side_px]
        square = square[:, ::-1] if crop.mirrored else square
        return torch.from_numpy(square.transpose(2, 0, 1).copy())[None].float().div_(255)


def read_images(
    images: Images,
    *,
    side_px: int,
    captions: Captions | None = None,
    skip_unreadable: bool = False,
    flip: bool = True,
    random_crop: bool = True,
) -> TrainingImages:
    """Read images and bring the shorter side of each to a length.

    Args:
        images: A folder, a pattern, or a list of paths, PIL images, arrays or tensors.
        side_px: The length.
        captions: One an image in the same order, or a mapping from the name of each file without its suffix.
        skip_unreadable: Leave out what cannot be read, with a warning that names it, rather than refuse all.
        flip: See `TrainingImages`.
        random_crop: See `TrainingImages`.

    Raises:
        ImageError: If there are none, or one cannot be read; all that cannot are named.
        CaptionError: If captions are not one an image.
    """
    sources = _sources(images)
    texts = _captions(captions, sources)
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
        what = f"{len(wrong)} of {len(sources)} images cannot be used: {' '.join(wrong)}"
        if not skip_unreadable or not kept:
            raise ImageError(f"{what} Mend or remove it; nothing was trained or written.")
        warnings.warn(f"{what} The others are used.", stacklevel=3)
    texts = None if texts is None else [texts[number] for number in kept]
    return TrainingImages(pixels, side_px=side_px, captions=texts, flip=flip, random_crop=random_crop)


def _sources(images: Images) -> list[ImageLike]:
    if isinstance(images, str | Path):
        return list(list_images(images))
    if not isinstance(images, Sequence):
        return [images]
    listed: list[ImageLike] = []
    for image in images:
        listed.extend(list_images(image) if isinstance(image, str | Path) else [image])
    if not listed:
        raise ImageError("expected at least one image; got an empty list. Five to twenty of one style do.")
    return listed


def _captions(captions: Captions | None, sources: Sequence[ImageLike]) -> list[str] | None:
    if captions is None:
        return None
    if isinstance(captions, Mapping):
        unnamed = [number for number, source in enumerate(sources) if not isinstance(source, str | Path)]
        if unnamed:
            raise CaptionError(f"captions by name go with files; image {unnamed[0]} is none. Pass a list of captions.")
        names = [Path(str(source)).stem for source in sources]
        absent = [name for name in names if name not in captions]
        if absent:
            ids = f" Its ids look like {next(iter(captions))!r}." if len(captions) else ""
            raise CaptionError(f"{len(absent)} of {len(names)} images have no caption, such as {absent[0]!r}.{ids}")
        return [captions[name] for name in names]
    if isinstance(captions, str) or len(captions) != len(sources):
        count = "one string" if isinstance(captions, str) else len(captions)
        file = " A caption file is read by CaptionTable.open(path)." if isinstance(captions, str) else ""
        raise CaptionError(f"{len(sources)} images need as many captions, one each; got {count}.{file}")
    return list(captions)


def _resized(picture: Image.Image, side_px: int) -> Image.Image:
    shorter = min(picture.size)
    if shorter == side_px:
        return picture
    width, height = (max(side_px, round(side * side_px / shorter)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
