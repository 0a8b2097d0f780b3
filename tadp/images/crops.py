"""One large image, kept as it is stored and converted to floats part by part."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tadp.errors import ImageError
from tadp.images.reading import (
    MAX_PIXELS,
    ImageLike,
    array_pixels,
    checked_array,
    checked_tensor,
    decode,
    to_tensor,
    to_unit_range,
)


class Crops:
    """Cuts parts out of a large image. To save memory, only the parts are converted to float32, not the whole image.

    Args:
        image: One image in any form that `tadp.images.to_tensor` reads. An array or tensor with a batch axis must
            contain exactly one image.
        max_pixels: Largest number of pixels (height times width) that the image may have; None removes the limit.

    Attributes:
        size: (height, width) of the image in pixels.

    Raises:
        ImageError: If the image cannot be read, has more than `max_pixels` pixels, or has values out of range.
        TypeError: If `image` is not a path, a PIL image, an array or a tensor.
    """

    def __init__(self, image: ImageLike, *, max_pixels: int | None = MAX_PIXELS):
        self._pixels = _stored(image, max_pixels)
        if self._pixels.ndim == 4:
            if len(self._pixels) != 1:
                raise ImageError(f"expected one image; got a batch of {len(self._pixels)}. Pass them one at a time.")
            self._pixels = self._pixels[0]
        shape = self._pixels.shape
        self.size = (int(shape[-2]), int(shape[-1])) if isinstance(self._pixels, Tensor) else (shape[0], shape[1])

    def cut(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "1 3 h w"]:
        """Cut out a part, in [0, 1] as `to_tensor` returns it. Beyond the right and bottom, the edge is repeated."""
        rows, columns = slice(top, top + height), slice(left, left + width)  # slicing stops at the image's edge
        if isinstance(self._pixels, Tensor):
            part = to_unit_range(self._pixels[:, rows, columns], "image")
        else:
            part = array_pixels(self._pixels[rows, columns], "image")
        part = part[None]
        below, right = height - part.shape[2], width - part.shape[3]
        return F.pad(part, (0, right, 0, below), mode="replicate") if below or right else part


def _stored(image: ImageLike, max_pixels: int | None) -> Tensor | np.ndarray:
    name = "image"
    if isinstance(image, str | Path | Image.Image):
        name = name if isinstance(image, Image.Image) else repr(str(image))
        image = decode(image, name, max_pixels)
    if isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.integer):
        return checked_array(image, name, max_pixels)
    if isinstance(image, Tensor) and image.dtype in (torch.uint8, torch.uint16):
        return checked_tensor(image, name, max_pixels)
    return to_tensor(image, max_pixels=max_pixels)  # floats, whose range is checked as a whole; other types are refused
