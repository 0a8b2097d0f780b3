"""Views of a data set: with other captions, or without its labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from jaxtyping import UInt8

from tadp.cleaning import CleaningReport
from tadp.datasets.sample import Sample
from tadp.datasets.transforms.augmented import SampleSource
from tadp.errors import CaptionError
from tadp.modifiers import CaptionModifier


class Recaptioned:
    """A data set whose captions are rewritten by a modifier. Images and labels do not change.

    Attributes:
        data: The original data set, with its class names.
        report: The report of the caption cleaning; None if captions were not cleaned.

    Args:
        data: The original data set, which returns a `Sample` for an index.
        modifier: The modifier that rewrites each caption.
        captions: Captions by image id that replace the samples' own; None uses the samples' own captions.
        report: The report of the caption cleaning; None if captions were not cleaned.
    """

    def __init__(
        self,
        data: SampleSource,
        modifier: CaptionModifier,
        *,
        captions: Mapping[str, str] | None = None,
        report: CleaningReport | None = None,
    ):
        self.data, self.modifier, self.report = data, modifier, report
        self._captions = captions

    @property
    def image_ids(self) -> list[str]:
        """The image ids of the data set."""
        ids: Any = self.data
        return ids.image_ids

    def __repr__(self) -> str:
        return f"<{self.data!r} under {self.modifier!r}>"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        caption = sample.caption if self._captions is None else self._captions.get(sample.image_id)
        if caption is None:
            raise CaptionError(
                f"image {sample.image_id!r} has no caption to modify; open its data set with captions=, a table filled "
                "by a captioner."
            )
        return replace(sample, caption=self.modifier(caption)[0])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class UnlabelledImage:
    """An image of the target domain without its labels, because they must not be used before the evaluation.

    Attributes:
        image: The image as RGB values, (H, W, 3), uint8.
        image_id: The image's id in its data set.
        caption: The image's caption; None if it has no caption.
    """

    image: UInt8[np.ndarray, "_h _w 3"]
    image_id: str
    caption: str | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"UnlabelledImage({self.image_id!r}, {height}x{width})"

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("mask", "depth_m", "boxes"):
            raise AttributeError(
                f"{self.image_id!r} is an image without labels here, so that no label of the target domain is "
                f"used. To evaluate, read {name} from the data set itself."
            )
        raise AttributeError(name)


class Unlabelled:
    """A view of a data set with its images and captions, but without access to its labels.

    Args:
        data: The data set, or any other sequence of `Sample` objects.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> Unlabelled(RenderedScenes(3, style="comic"))[0].boxes
        Traceback (most recent call last):
        AttributeError: 'comic-0-000000' is an image without labels here, so that no label of the target domain is \
used. To evaluate, read boxes from the data set itself.
    """

    def __init__(self, data: SampleSource):
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> UnlabelledImage:
        sample = self._data[index]
        return UnlabelledImage(sample.image, sample.image_id, sample.caption)

    def __iter__(self) -> Iterator[UnlabelledImage]:
        return (self[index] for index in range(len(self)))


def images_of(data: SampleSource, *, count: int = 10, seed: int = 0) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """Draw images of a data set at random, without repetition, as training images for `learn_token` and `dreambooth`.

    Args:
        data: A data set of the target domain. Do not use images that a model is tested on.
        count: The number of images to draw; 10 by default.
        seed: Seed of the random choice.

    Returns:
        The images as RGB values, each (H, W, 3), uint8.

    Raises:
        ValueError: If the data set has fewer than `count` images.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> [image.shape for image in images_of(RenderedScenes(20, style="night"), count=2)]
        [(128, 128, 3), (128, 128, 3)]
    """
    if not 1 <= count <= len(data):
        raise ValueError(f"count must be from 1 to the data set's number of images, {len(data)}; got {count}.")
    images = Unlabelled(data)
    return [images[int(index)].image for index in np.random.default_rng(seed).permutation(len(data))[:count]]
