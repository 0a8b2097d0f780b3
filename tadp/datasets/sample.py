"""One image of a data set, and its labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from tadp.images.boxes import Boxes

IGNORE_LABEL = 255  # the label of mask pixels that no loss and no metric counts


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """One image of a data set, with its caption and labels. Those that the data set does not have are None.

    Attributes:
        image: The image as RGB values, (H, W, 3), uint8.
        image_id: The image's name in the data set, by which its caption is looked up.
        caption: The image's caption; None if it has no caption.
        mask: The class of each pixel, (H, W), int64, counted from 0; `IGNORE_LABEL` (255) where the class is unknown.
            Other integer types are converted. None if the image has no mask.
        depth_m: Depth in metres, (H, W), float32; 0, NaN or infinity where it is unknown. Other float types are
            converted. None if the image has no depth.
        boxes: The boxes around the objects, in pixels of this image; None if the image has no boxes.
        room: The kind of room that the image shows, such as "kitchen", or the kind of place; None if it is not known. A
            depth model that was built with `own_class=True` takes it as its text.

    Raises:
        TypeError: If `image`, `mask` or `depth_m` is not a NumPy array of the type and number of axes above.
        ValueError: If the mask or the depth differs from the image in size.

    Example:
        >>> Sample(np.zeros((48, 64, 3), np.uint8), "a.jpg", mask=np.zeros((48, 64), np.int64))
        Sample('a.jpg', 48x64, mask)
    """

    image: UInt8[np.ndarray, "_h _w 3"]
    image_id: str
    caption: str | None = None
    mask: Integer[np.ndarray, "_h _w"] | None = None
    depth_m: Float[np.ndarray, "_h _w"] | None = None
    boxes: Boxes | None = None
    room: str | None = None

    def __post_init__(self) -> None:
        self._widen()
        _check_kind("image", self.image, np.uint8, 3)
        if self.image.shape[2] != 3:
            hint = ""
            if self.image.shape[0] == 3:
                hint = " Pass image.transpose(1, 2, 0)."
            elif self.image.shape[2] in (1, 4):
                hint = " Pass np.asarray(picture.convert('RGB'))."
            raise TypeError(f"an image must be (H, W, 3); {self.image_id!r} has shape {self.image.shape}.{hint}")
        for name, plane, dtype in (("mask", self.mask, np.int64), ("depth_m", self.depth_m, np.float32)):
            if plane is None:
                continue
            _check_kind(name, plane, dtype, 2)
            if plane.shape != self.image_size:
                raise ValueError(
                    f"{name} must have the size of its image; {self.image_id!r} has {sides(plane.shape)} for an image "
                    f"of {sides(self.image_size)} (height x width)."
                )

    def _widen(self) -> None:
        """Convert masks of any integer type to int64, and depth of any float type to float32."""
        if isinstance(self.mask, np.ndarray) and np.issubdtype(self.mask.dtype, np.integer):
            object.__setattr__(self, "mask", self.mask.astype(np.int64, copy=False))
        if isinstance(self.depth_m, np.ndarray) and np.issubdtype(self.depth_m.dtype, np.floating):
            object.__setattr__(self, "depth_m", self.depth_m.astype(np.float32, copy=False))
        if self.boxes is not None and not isinstance(self.boxes, Boxes):
            raise TypeError(
                "boxes must be tadp.images.boxes.Boxes(boxes, labels); "
                f"{self.image_id!r} has a {type(self.boxes).__name__}."
            )

    def __repr__(self) -> str:
        count = None if self.boxes is None else len(self.boxes)
        parts = [
            repr(self.image_id),
            sides(self.image_size),
            *(name for name in ("mask", "depth_m") if getattr(self, name) is not None),
            *([] if count is None else [f"{count} {'box' if count == 1 else 'boxes'}"]),
        ]
        return f"Sample({', '.join(parts)})"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image.shape[:2]
        return height, width


def sides(image_size: tuple[int, ...]) -> str:
    """A size as text, such as "480x640"."""
    return "x".join(map(str, image_size))


def nearest(old: int, new: int) -> Int64[np.ndarray, " _new"]:
    """For each of `new` pixels of a side, the index of the pixel of `old` under its centre."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _check_kind(name: str, value: np.ndarray, dtype: type, axes: int) -> None:
    if not isinstance(value, np.ndarray):
        hint = " Pass np.asarray(picture.convert('RGB'))." if name == "image" else " Pass np.asarray(…)."
        raise TypeError(f"{name} must be a NumPy array; got {type(value).__name__}.{hint}")
    if value.dtype != dtype or value.ndim != axes:
        hint = ""
        if value.ndim == axes and name == "image" and np.issubdtype(value.dtype, np.floating):
            hint = " Pass (255 * image).round().astype(np.uint8) if it ranges from 0 to 1."
        elif value.ndim == axes and name == "depth_m":
            hint = " Pass metres as floats: millimetres / 1000."
        elif value.ndim == axes and name == "mask":
            hint = " Pass mask.astype(np.int64)."
        elif value.ndim == 2 and name == "image":
            hint = " Pass np.stack([image] * 3, axis=-1)."
        raise TypeError(
            f"{name} must be an array of {np.dtype(dtype)} with {axes} axes; got {value.dtype}, shape "
            f"{value.shape}.{hint}"
        )
