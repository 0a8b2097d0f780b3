"""Rendered scenes as samples with mask, depth, boxes and caption, without a download."""

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
    """A data set of rendered scenes, which are rendered on access. The same seed gives the same samples.

    In a mask, 0 is background and k is `box_class_names[k - 1]`. Depth is at most `scenes.MAX_DEPTH_M`, the depth of
    the sky. Boxes belong to visible objects. Ids consist of style, seed and number, such as "plain-0-000003".

    Attributes:
        class_names: Names of the classes in masks: "background", then the 12 classes.
        box_class_names: Names of the 12 classes. The label of a box is an index into this tuple.
        scenes: The scenes themselves.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes. Data sets with different seeds share no scenes.
        style: The style of all scenes; None mixes the styles.
        size: Height and width in pixels, at least 32.
        max_objects: Largest number of objects in a scene, 1 to 4.
        captions: A `CaptionTable`, or a mapping from id to caption. By default the caption is `scene.caption()`, which
            names every visible object with its colour, and the place.

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
