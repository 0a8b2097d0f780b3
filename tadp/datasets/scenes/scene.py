"""Scenes as records of numbers, drawn from (seed, index) and rendered with all their labels."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args, overload

import numpy as np
from PIL import Image

from tadp.datasets.scenes.backdrops import BACKGROUNDS, backdrop
from tadp.datasets.scenes.scene_captions import details, sentence
from tadp.datasets.scenes.scene_objects import CLASSES, NEAREST_M, SceneObject, draw_object, sample_object
from tadp.datasets.scenes.styles import apply_style
from tadp.files.checks import check_choice, check_whole

Style = Literal["plain", "watercolor", "comic", "night"]
STYLES: tuple[Style, ...] = get_args(Style)
MAX_DEPTH_M = 20.0  # the sky, and the ground near the horizon
VISIBLE_SHARE = 0.004  # an object is visible if it covers this share of the image's pixels or more
_SUPERSAMPLE = 2
_LARGEST_PX = 4096  # larger sizes may not fit into memory
_REMEMBERED = 100_000
_rendered: OrderedDict[int, None] = OrderedDict()  # hashes of the images that this process rendered last
_LABELS = {name: number for number, name in enumerate(CLASSES, start=1)}


@dataclass(frozen=True)
class SceneLayout:
    """A scene before rendering. Objects are ordered from far to near."""

    objects: tuple[SceneObject, ...]
    background: str
    horizon: float
    """Row of the horizon, as a share of the image's height."""
    style: Style
    noise_seed: int

    def render(self, size: int = 128) -> "Scene":
        """Draw the scene.

        Args:
            size: Height and width in pixels, 32 to 4096.
        """
        _check_size(size)
        rng = np.random.default_rng(self.noise_seed)
        canvas = Image.fromarray(backdrop(self.background, self.horizon, size, rng)).resize(
            (size * _SUPERSAMPLE, size * _SUPERSAMPLE), Image.Resampling.NEAREST
        )
        mask = np.zeros((size, size), np.uint8)
        owner = np.full((size, size), -1, np.int8)
        depth = _ground_depth(self.horizon, size)
        for number, scene_object in enumerate(self.objects):
            silhouette = draw_object(canvas, scene_object, self.horizon)
            covered = np.asarray(silhouette.reduce(_SUPERSAMPLE)) > 127
            mask[covered] = _LABELS[scene_object.name]
            owner[covered] = number
            depth[covered] = scene_object.distance_m
        image = np.asarray(canvas.reduce(_SUPERSAMPLE)).astype(np.float32)
        image += rng.normal(0, 3, image.shape).astype(np.float32)
        image = apply_style(np.clip(image, 0, 255).astype(np.uint8), self.style, rng)
        _remember(image)
        boxes, numbers, shares = _visible(owner, len(self.objects))
        return Scene(self, image, mask, depth, boxes, tuple(self.objects[k] for k in numbers), shares)


@dataclass(frozen=True)
class Scene:
    """A rendered scene and all its labels."""

    layout: SceneLayout
    image: np.ndarray
    """The picture, (H, W, 3), uint8."""
    mask: np.ndarray
    """The class of each pixel, (H, W), uint8: 0 is background, k is `CLASSES[k - 1]`."""
    depth_m: np.ndarray
    """Depth in metres, (H, W), float32, up to `MAX_DEPTH_M`."""
    boxes: np.ndarray
    """Left, top, right, bottom in pixels of the visible part of each visible object, (N, 4), float32."""
    visible: tuple[SceneObject, ...]
    """The N visible objects, left to right."""
    shares: tuple[float, ...]
    """The share of the image's pixels that each visible object covers."""

    @property
    def names(self) -> list[str]:
        """Class names of the visible objects, left to right."""
        return [scene_object.name for scene_object in self.visible]

    @property
    def labels(self) -> np.ndarray:
        """The mask's value for each visible object, (N,), int64."""
        return np.array([_LABELS[name] for name in self.names], np.int64)

    def caption(self, rng: np.random.Generator | None = None, *, long: bool = False) -> str:
        """Describe the visible objects and the place.

        Args:
            rng: Random number generator for the form of the caption. None, the default, gives a plain sentence with
                every visible object and its colour, from left to right, then the place and the style. A generator
                varies the sentence: it draws another order, adds words for size, or leaves out some attributes.
            long: Whether to add one sentence per object, with the object's size, side of the image and distance.
        """
        background = self.layout.background
        text = sentence(self.visible, self.shares, background, self.layout.style, rng)
        return text + (details(self.visible, self.shares, background) if long else "")


def _check_size(size: int) -> None:
    if not 32 <= check_whole(size, name="size", unit="pixel") <= _LARGEST_PX:
        raise ValueError(
            f"a scene must be rendered at 32 to {_LARGEST_PX} px; got {size}. Render it smaller, and resize."
        )


class Scenes:
    """A sequence of scenes that are rendered when they are accessed. Index it, or pass it to a DataLoader.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes, 0 by default. Sequences with different seeds share no scenes.
        size: Height and width of the images in pixels, 32 to 4096; 128 by default.
        style: Style of all scenes: "plain" (the default), "watercolor", "comic" or "night". None draws each scene's
            style at random: plain with probability 70 %, and each other style with 10 %.
        max_objects: Largest number of objects in a scene, 1 to 4; 4 by default.
    """

    def __init__(
        self, count: int, *, seed: int = 0, size: int = 128, style: Style | None = "plain", max_objects: int = 4
    ):
        check_whole(count, name="count", minimum=0)
        _check_size(size)
        check_whole(max_objects, name="max_objects")
        if count < 0 or not 1 <= max_objects <= 4:
            raise ValueError(f"count must be 0 or more and max_objects 1 to 4; got {count} and {max_objects}.")
        check_choice(style, (*STYLES, None), name="style")
        self.count, self.seed, self.size, self.max_objects = count, seed, size, max_objects
        self.style: Style | None = style

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> Scene: ...

    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...

    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self.count))]
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}.")
        rng = np.random.default_rng((self.seed, index % self.count))
        return sample_layout(rng, style=self.style, max_objects=self.max_objects).render(self.size)

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(self.count))


def sample_layout(rng: np.random.Generator, *, style: Style | None = "plain", max_objects: int = 4) -> SceneLayout:
    """Draw a scene: one to four objects of different classes, a place, a horizon."""
    count = int(rng.integers(1, max_objects + 1))
    names = rng.choice(CLASSES, size=count, replace=False)
    slots = rng.permutation(count)
    objects = [
        sample_object(rng, str(name), (slot + rng.uniform(0.25, 0.75)) / count)
        for name, slot in zip(names, slots, strict=True)
    ]
    if style is None:
        style = STYLES[int(rng.choice(len(STYLES), p=(0.7, 0.1, 0.1, 0.1)))]
    return SceneLayout(
        objects=tuple(sorted(objects, key=lambda scene_object: -scene_object.distance_m)),
        background=str(rng.choice(list(BACKGROUNDS))),
        horizon=float(rng.uniform(0.3, 0.55)),
        style=style,
        noise_seed=int(rng.integers(2**31)),
    )


def is_rendered(image: np.ndarray) -> bool:
    """Whether an image, (H, W, 3), uint8, has the pixels of a scene that this process rendered.

    Only the last 100,000 scenes are remembered.
    """
    return hash(image.tobytes()) in _rendered


def _remember(image: np.ndarray) -> None:
    _rendered[hash(image.tobytes())] = None
    if len(_rendered) > _REMEMBERED:
        _rendered.popitem(last=False)


def restyle(layout: SceneLayout, style: Style) -> SceneLayout:
    """Return the same scene in another style."""
    return replace(layout, style=style)


def _ground_depth(horizon: float, size: int) -> np.ndarray:
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    below = np.maximum(rows - horizon, 1e-6)
    depth = np.where(rows > horizon, np.minimum(NEAREST_M * (0.98 - horizon) / below, MAX_DEPTH_M), MAX_DEPTH_M)
    return np.repeat(depth[:, None], size, axis=1).astype(np.float32)


def _visible(owner: np.ndarray, count: int) -> tuple[np.ndarray, tuple[int, ...], tuple[float, ...]]:
    """Boxes, numbers and shares of the visible objects, left to right."""
    visible = []
    for number in range(count):
        rows, columns = np.nonzero(owner == number)
        if len(rows) >= VISIBLE_SHARE * owner.size:
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            visible.append((columns.mean(), box, number, len(rows) / owner.size))
    visible.sort()
    boxes = np.array([box for _, box, _, _ in visible], np.float32).reshape(-1, 4)
    return boxes, tuple(number for _, _, number, _ in visible), tuple(share for *_, share in visible)
