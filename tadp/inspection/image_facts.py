"""What is measured of one image and its labels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tadp.datasets import FolderDataset, MaskFolder, Sample, VOCFolder
from tadp.datasets.readers.label_files import LabelSizeError, is_scaled
from tadp.datasets.readers.label_problems import spelled_twice
from tadp.datasets.sample import sides
from tadp.errors import DatasetError, ImageError, TADPError
from tadp.images.image_files import is_image, size_of

Fault = Literal["unreadable file", "label size", "depth unit", "wrong label"]
_FLAT = 2.0  # grey levels: below this standard deviation, noise decides the bits of a fingerprint
_CELLS = 8
FINGERPRINT_BYTES = 2 * _CELLS * _CELLS // 8


@dataclass(frozen=True)
class ImageFacts:
    """The facts that an inspection found about one image and its labels.

    Attributes:
        image_size: (height, width) of the upright image in pixels; None if its header cannot be read.
        digest: SHA-256 of the image file; "" if only the header was read.
        fingerprint: 128 bits as hexadecimal digits that change little if the image is scaled or compressed again; "" if
            only the header was read, or the image has hardly any contrast.
        pixels: Number of pixels of each class in the mask, by its index; 255 counts pixels without class.
        depth_m: Lowest, median and highest known depth in metres; None if no depth is known.
        fault: What is wrong with the image or its labels; None if nothing is.
        message: The fault in a sentence with the name of the file; "" if nothing is wrong.
    """

    image_size: tuple[int, int] | None = None
    digest: str = ""
    fingerprint: str = ""
    pixels: Mapping[int, int] = field(default_factory=dict)
    depth_m: tuple[float, float, float] | None = None
    fault: Fault | None = None
    message: str = ""


def measure(data: FolderDataset, index: int, image: Path, labels: Path | None, *, quick: bool) -> ImageFacts:
    """Measure an image and its labels. Nothing is raised for files that are wrong.

    Args:
        data: The data set.
        index: Number of the image in the data set.
        image: The image file.
        labels: The file of its labels, or None.
        quick: Whether to read only the headers of files.
    """
    facts = ImageFacts()
    try:
        facts = ImageFacts(image_size=size_of(image))
        if quick:
            resizes = isinstance(data, MaskFolder | VOCFolder) and data.resizes_labels
            return _compared(facts, image, labels, resizes=resizes)
        facts = replace(facts, digest=hashlib.sha256(image.read_bytes()).hexdigest())
        return _decoded(facts, data[index])
    except LabelSizeError as error:
        return replace(facts, fault="label size", message=_text(error))
    except (ImageError, OSError) as error:
        return replace(facts, fault="unreadable file", message=_text(error))
    except DatasetError as error:
        is_unit = error.option in ("scale", "invalid")
        rule = (
            error.__cause__ if isinstance(error.__cause__, DatasetError) else error
        )  # the finding has the advice once
        return replace(facts, fault="depth unit" if is_unit else "wrong label", message=_text(rule))


def fingerprint(image: UInt8[np.ndarray, "_h _w 3"]) -> str:
    """A perceptual hash: which of neighbouring cells of a grid of 9 x 9 is brighter, across and down.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> image = Scenes(1, seed=0)[0].image
        >>> distance = np.bitwise_xor(*(np.frombuffer(bytes.fromhex(fingerprint(i)), np.uint8) for i in (image, image)))
        >>> int(distance.sum())
        0
    """
    small = Image.fromarray(image).convert("L").resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BOX)
    levels = np.asarray(small, np.float32)
    if levels.std() < _FLAT:
        return ""
    across = levels[:_CELLS, 1:] > levels[:_CELLS, :-1]
    down = levels[1:, :_CELLS] > levels[:-1, :_CELLS]
    return np.packbits(np.stack([across, down])).tobytes().hex()


def _text(error: Exception) -> str:
    return error.spelled(spelled_twice) if isinstance(error, TADPError) else str(error)


def _compared(facts: ImageFacts, image: Path, labels: Path | None, *, resizes: bool) -> ImageFacts:
    """Compare the sizes of an image and its mask or depth by their headers."""
    if labels is None or not is_image(labels) or labels == image:
        return facts
    size = size_of(labels)
    if size == facts.image_size or (resizes and is_scaled(size, facts.image_size or ())):
        return facts
    raise LabelSizeError(
        f"labels must have the size of their image; {labels} is {sides(size)}, and {image} is "
        f"{sides(facts.image_size or ())} (height x width)."
    )


def _decoded(facts: ImageFacts, sample: Sample) -> ImageFacts:
    pixels: dict[int, int] = {}
    if sample.mask is not None:
        counts = np.bincount(sample.mask.ravel())
        pixels = {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    depth_m = None
    if sample.depth_m is not None:
        known = sample.depth_m[np.isfinite(sample.depth_m) & (sample.depth_m > 0)]
        depth_m = (float(known.min()), float(np.median(known)), float(known.max())) if known.size else None
    return replace(
        facts,
        image_size=sample.image_size,
        fingerprint=fingerprint(sample.image),
        pixels=pixels,
        depth_m=depth_m,
    )
