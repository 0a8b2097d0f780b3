"""Rendered scenes as samples with mask, depth, boxes and caption, without a download."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import overload

import numpy as np
import torch

from tadp.datasets.readers.image_folder import Captions, TaskName, caption_of, check_image_captions, choose_ids
from tadp.datasets.sample import Sample
from tadp.datasets.scenes.backdrops import BACKGROUNDS
from tadp.datasets.scenes.scene import Scene, Scenes, Style
from tadp.datasets.scenes.scene_objects import CLASSES
from tadp.images.boxes import Boxes


class RenderedScenes:
    """A data set of scenes that are rendered when a sample is accessed. The same seed gives the same samples.

    In a mask, 0 is background and k is `box_class_names[k - 1]`. The largest depth is `MAX_DEPTH_M` in
    `tadp.datasets.scenes`, the depth of the sky. There is one box per visible object. Image ids consist of style, seed
    and index, such as "plain-0-000003".

    Attributes:
        class_names: Names of the classes in masks: "background", then the 12 object classes.
        box_class_names: Names of the 12 object classes. The label of a box is an index into this tuple.
        room_names: Names of the places, such as "street". A sample's `room` is the place of its scene.
        tasks: "segmentation", "depth" and "detection".
        scenes: The sequence of `Scene` objects that are rendered.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes, 0 by default. Data sets with different seeds share no scenes.
        style: Style of all scenes: "plain" (the default), "watercolor", "comic" or "night". None mixes the styles.
        size: Height and width of the images in pixels, 32 to 4096; 128 by default.
        max_objects: Largest number of objects in a scene, 1 to 4; 4 by default.
        captions: A `CaptionTable` or another mapping from image id to caption. None uses each scene's own caption,
            `Scene.caption()`, which names the place and every visible object with its colour.

    Raises:
        ValueError: If `count`, `size`, `style` or `max_objects` is out of range.
        UnknownIdError: If `captions` lacks the caption of an image.

    Example:
        >>> sample = RenderedScenes(10, seed=1)[3]
        >>> sample
        Sample('plain-1-000003', 128x128, mask, depth_m, 2 boxes)
        >>> sample.caption
        'a red person and a purple tree in a desert'
    """

    tasks: tuple[TaskName, ...] = ("segmentation", "depth", "detection")

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
        self.room_names = tuple(BACKGROUNDS)
        self._captions = captions
        self._places: Sequence[int] = range(count)  # of the scenes in `scenes`; a subset has some of them
        if captions is not None:
            check_image_captions(captions, self.image_ids, "rendered scenes")

    @property
    def image_ids(self) -> list[str]:
        """Names of the scenes, in order."""
        return [self._id(place) for place in self._places]

    def with_captions(self, captions: Captions | None) -> "RenderedScenes":
        """Return the same data set with other captions; None stands for each scene's own caption.

        Raises:
            UnknownIdError: If `captions` lacks the caption of an image.
        """
        if captions is not None:
            check_image_captions(captions, self.image_ids, "rendered scenes")
        other = copy(self)
        other._captions = captions
        return other

    def subset(self, image_ids: Sequence[str]) -> "RenderedScenes":
        """Return the data set with some of its images, in the order of `image_ids`.

        Raises:
            DatasetError: If an id is unknown or occurs twice, or `ids` is empty.
        """
        places = dict(zip(self.image_ids, self._places, strict=True))
        other = copy(self)
        other._places = [places[image_id] for image_id in choose_ids(image_ids, list(places), "rendered scenes")]
        return other

    def __repr__(self) -> str:
        return f"<rendered scenes: {len(self)} images>"

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}.")
        place = self._places[index]
        scene, image_id = self.scenes[place], self._id(place)
        caption = scene.caption() if self._captions is None else caption_of(self._captions, image_id)
        return _sample(scene, image_id, caption)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _id(self, index: int) -> str:
        return f"{self.scenes.style or 'mixed'}-{self.scenes.seed}-{index:06d}"


def _sample(scene: Scene, image_id: str, caption: str) -> Sample:
    boxes = Boxes(torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels - 1))
    mask, room = scene.mask.astype(np.int64), scene.layout.background
    return Sample(scene.image, image_id, caption, mask, scene.depth_m, boxes, room)
