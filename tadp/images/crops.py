"""One large image, kept as it is stored and converted to floats part by part."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.images.reading import MAX_PIXELS, ImageLike, array_pixels, stored_pixels, to_unit_range


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
        self._pixels = stored_pixels(image, max_pixels)
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
