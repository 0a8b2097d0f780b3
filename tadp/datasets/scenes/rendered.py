"""Rendered scenes as samples: mask, depth, boxes and caption of every image, with nothing to download."""

from collections.abc import Iterator
from typing import overload

import numpy as np
import torch

from tadp.datasets.readers.image_folder import Captions, caption_of, check_image_captions
from tadp.datasets.sample import Sample
from tadp.datasets.scenes.scene import Scene, Scenes, Style
from tadp.datasets.scenes.scene_objects import CLASSES
from tadp.images.boxes import Boxes


class RenderedScenes:
    """A data set of rendered scenes, made when they are asked for; the same seed gives the same samples.

    A mask has 0 for background and k for `box_class_names[k - 1]`; depth is up to `scenes.MAX_DEPTH_M`, which the sky
    has; boxes are those of the visible objects. Ids are style, seed and number: "plain-0-000003".

    Attributes:
        class_names: What masks count: "background", then the 12 classes.
        box_class_names: What the labels of boxes count: the 12 classes.
        scenes: The scenes themselves.

    Args:
        count: Number of scenes.
        seed: Another seed is another data set; two data sets share no scene.
        style: One style for all; None mixes them.
        size: Height and width in pixels, from 32 up.
        max_objects: 1 to 4.
        captions: A `CaptionTable`, or a mapping from id to caption. None: `scene.caption()`, which names every visible
            object with its colour, and the place.

    Raises:
        ValueError: If `count`, `style` or `max_objects` is out of range.
        UnknownIdError: If an image has no caption in `captions`.

    Example:
        >>> sample = RenderedScenes(10, seed=1)[3]
        >>> sample
        Sample('plain-1-000003', 128x128, mask, depth_m, 2 boxes)
        >>> sample.caption
        'a red person and a purple tree in a desert'
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        style: Style | None = "plain",
        size: int = 128,
        max_objects: int = 4,
        captions: Captions | None = None,
    ):
        self.scenes = Scenes(count, seed=seed, size=size, style=style, max_objects=max_objects)
        self.class_names = ("background", *CLASSES)
        self.box_class_names = CLASSES
        self._captions = captions
        if captions is not None:
            check_image_captions(captions, self.image_ids, "rendered scenes")

    @property
    def image_ids(self) -> list[str]:
        """Names of the scenes, in order."""
        return [self._id(index) for index in range(len(self))]

    def __repr__(self) -> str:
        return f"<rendered scenes: {len(self)} images>"

    def __len__(self) -> int:
        return len(self.scenes)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        scene = self.scenes[index]
        image_id = self._id(index % len(self))
        caption = scene.caption() if self._captions is None else caption_of(self._captions, image_id)
        return _sample(scene, image_id, caption)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _id(self, index: int) -> str:
        return f"{self.scenes.style or 'mixed'}-{self.scenes.seed}-{index:06d}"


def _sample(scene: Scene, image_id: str, caption: str) -> Sample:
    boxes = Boxes(torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels - 1))
    return Sample(scene.image, image_id, caption, scene.mask.astype(np.int64), scene.depth_m, boxes)
