"""Read images as one tensor (B, 3, H, W) in [0, 1], pad them to a multiple of a stride, and crop their maps back.

Channels are red, green, blue. An array in BGR order, which `cv2.imread` returns, cannot be recognised as such: reverse
its channels with `image[..., ::-1]` first. Colour profiles are not applied.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from tadp.errors import Argument, ImageError, OptionError
from tadp.files.checks import check_numbers, check_whole
from tadp.files.inference import check_process, is_tracing, makes_graph
from tadp.images.image_files import BAND_PIXELS, check_size, decode

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

MAX_PIXELS = 1024**3 // 4 // 3  # 89 megapixels: where Pillow begins to warn of a decompression bomb

_WHITE_LEVEL = {torch.uint8: 255, torch.uint16: 65535}
_ARRAY_DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
OVERSHOOT = "Bicubic resizing of floats, noise, and RandomErasing(mode='pixel') of timm do this."
_TOLERANCE = 0.01  # resizing may overshoot by a rounding error, which is 0.008 in bfloat16


def to_pil(image: ImageLike, *, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """Read one image as an upright 8-bit RGB picture.

    Args:
        image: One image in any form that `to_tensor` reads. An array or tensor with a batch axis must contain exactly
            one image.
        max_pixels: Largest number of pixels (height times width) that the image may have; None removes the limit.

    Returns:
        A new image of mode "RGB". Values with more than 8 bits are rounded to the nearest 8-bit value.

    Raises:
        ImageError: If the image cannot be read, has more than `max_pixels` pixels, or has values out of range.
        TypeError: If `image` is not a path, a PIL image, an array or a tensor.
    """
    stored = stored_pixels(image, max_pixels)
    if isinstance(stored, np.ndarray) and stored.dtype == np.uint8 and stored.shape[2] == 3:
        return Image.fromarray(stored)
    height, width = stored.shape[-2:] if isinstance(stored, Tensor) else stored.shape[:2]
    levels = np.empty((height, width, 3), np.uint8)
    for rows in _bands(height, width):
        if isinstance(stored, Tensor):
            part = to_unit_range(stored[:, rows], "image").detach().float().clamp(0, 1)
        else:
            part = array_pixels(stored[rows], "image")
        levels[rows] = rearrange(part.mul_(255).round_().to(torch.uint8), "c h w -> h w c").cpu().numpy()
    return Image.fromarray(levels)


def read_image(image: ImageLike, *, max_pixels: int | None = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Read one image as an array of RGB values: the picture that models, captioners and data sets see.

    In contrast to `np.asarray(Image.open(path))`, a photograph that its camera stored turned is upright, a transparent
    image lies on white, and grey, palettes and 16-bit values become RGB values of 8 bits. Colour profiles are not
    applied.

    Args:
        image: One image in any form that `to_tensor` reads.
        max_pixels: Largest number of pixels (height times width) that the image may have; None removes the limit.

    Returns:
        The pixels, (H, W, 3), uint8, in an array of their own.

    Raises:
        ImageError: If the image cannot be read, has more than `max_pixels` pixels, or has values out of range.
        TypeError: If `image` is not a path, a PIL image, an array or a tensor.
    """
    return np.array(to_pil(image, max_pixels=max_pixels))


def to_tensor(
    images: ImageLike | Sequence[ImageLike], *, max_pixels: int | None = MAX_PIXELS
) -> Float[Tensor, "b 3 h w"]:
    """Read images as one batch in [0, 1].

    Files and PIL images are turned upright according to their EXIF orientation. Transparent images are composited on
    white. 8-bit values are divided by 255 and 16-bit greys by 65535. Colour files with 16 bits per channel are read
    with 8 bits, as Pillow does. Float values must already lie in [0, 1], with a tolerance of 0.01 for the rounding
    error of a resize; they are not clipped.

    A file with several frames (an animation, or pages) is refused, because it is unclear which frame is meant. A PIL
    image is read at its current frame.

    Args:
        images: A path; a PIL image; an array (H, W), (H, W, C) or (B, H, W, C) with 1 (grey), 3 (RGB) or 4
            (RGBA) channels, of uint8, uint16 or float; a tensor (3, H, W) or (B, 3, H, W) of these types; or a
            list of single images, all of one size.
        max_pixels: Largest number of pixels (height times width) that an image may have, checked before the image is
            decoded; None removes the limit. For files, Pillow's own limits still apply: Pillow warns above
            `PIL.Image.MAX_IMAGE_PIXELS`, and raises an error above twice that number.

    Returns:
        The images, (B, 3, H, W), in [0, 1], float32 on the CPU. A float tensor keeps its dtype, device and gradient; a
        float tensor with a batch axis is returned unchanged.

    Raises:
        ImageError: If an image cannot be read, has values out of range, has more than `max_pixels` pixels or a side
            under 8 pixels, or if a list contains images of different sizes.
        TypeError: If an image is not a path, a PIL image, an array or a tensor.
    """
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        return _read(images, "image", max_pixels)
    if not images:
        raise ImageError("expected at least one image; got an empty list.")
    batches = [_read(image, f"image {i}", max_pixels) for i, image in enumerate(images)]
    for i, batch in enumerate(batches):
        if len(batch) != 1:
            raise ImageError(f"a list must hold single images; image {i} is a batch of {len(batch)}. Split it.")
        if batch.shape != batches[0].shape:
            raise ImageError(
                f"images of one batch must share one size; image 0 is {_size(batches[0])} and image {i} is "
                f"{_size(batch)} (height x width). Resize them to one size, or pass them one at a time."
            )
    return batches[0] if len(batches) == 1 else torch.cat(batches)


def pad_to_multiple(images: Float[Tensor, "b 3 h w"], multiple: int) -> Float[Tensor, "b 3 _h _w"]:
    """Pad images on the right and at the bottom, by repeating their last column and row, to multiples of a number.

    Args:
        images: Images, (B, 3, H, W).
        multiple: The number of pixels, 1 or more, that height and width become multiples of.

    Returns:
        The padded images, (B, 3, H', W'); the same tensor as `images` if no padding is needed.

    Raises:
        ValueError: If `multiple` is under 1.
    """
    check_whole(multiple, name="multiple")
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


def crop_to_cells(
    feature: Float[Tensor, "b c h w"], image_size: tuple[int, int], reduction: int
) -> Float[Tensor, "b c _h _w"]:
    """Remove the cells of a feature map that only cover padding.

    Args:
        feature: Feature map of padded images, (B, C, h, w).
        image_size: (height, width) of the images before padding, in pixels.
        reduction: Stride of the map: the width of a cell in pixels.

    Returns:
        The cells that cover the images, (B, C, ceil(height / reduction), ceil(width / reduction)).

    Raises:
        ValueError: If the map is too small to come from an image of this size.
    """
    height, width = (-(-side // reduction) for side in image_size)
    if feature.shape[-2] < height or feature.shape[-1] < width:
        raise ValueError(
            f"an image of {image_size[0]}x{image_size[1]} has {height}x{width} cells at stride {reduction}; "
            f"the map has {_size(feature)}. Pass (height, width) before padding, and the map's own stride."
        )
    if is_tracing():
        height, width = int(height), int(width)  # TorchScript's exporter to ONNX loses sizes, which heads need
        return feature[..., :height, :width].reshape(feature.shape[0], int(feature.shape[1]), height, width)
    return feature[..., :height, :width]


def _read(image: ImageLike, name: str, max_pixels: int | None) -> Float[Tensor, "b 3 h w"]:
    check_process(starts=False)  # converting a large image already waits for threads
    _check_limit(max_pixels)
    if isinstance(image, (str, Path)):
        name = repr(str(image))
    if isinstance(image, (str, Path, Image.Image)):
        image = decode(image, name, max_pixels)
    if isinstance(image, np.ndarray):
        pixels = array_pixels(checked_array(image, name, max_pixels), name)
        return pixels if pixels.ndim == 4 else pixels[None]
    if isinstance(image, Tensor):
        pixels = to_unit_range(checked_tensor(image, name, max_pixels), name)
        return pixels if pixels.ndim == 4 else pixels[None]
    raise TypeError(f"{name} must be a path, PIL image, NumPy array or tensor; got {type(image).__name__}.")


def stored_pixels(image: ImageLike, max_pixels: int | None) -> Tensor | np.ndarray:
    """Read one image: an array (H, W, C) or tensor (3, H, W) of 8 or 16 bits, or floats in [0, 1], (3, H, W)."""
    check_process(starts=False)
    _check_limit(max_pixels)
    name = "image"
    if isinstance(image, (str, Path, Image.Image)):
        name = name if isinstance(image, Image.Image) else repr(str(image))
        image = decode(image, name, max_pixels)
    if isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.integer):
        pixels = checked_array(image, name, max_pixels)
    elif isinstance(image, Tensor) and image.dtype in _WHITE_LEVEL:
        pixels = checked_tensor(image, name, max_pixels)
    else:
        pixels = _read(image, name, max_pixels)  # floats, whose range is checked as a whole; other types are refused
    if pixels.ndim == 3:
        return pixels
    if len(pixels) != 1:
        raise ImageError(f"expected one image; got a batch of {len(pixels)}. Pass them one at a time.")
    return pixels[0]


def _check_limit(max_pixels: int | None) -> None:
    if max_pixels is not None:
        check_numbers(allow_nonfinite=True, max_pixels=max_pixels)
        if not max_pixels >= 1:
            raise OptionError(Argument("max_pixels"), f" must be 1 or more, or None for no limit; got {max_pixels}.")


def checked_array(array: np.ndarray, name: str, max_pixels: int | None) -> np.ndarray:
    """Return an array with its channels last, (H, W, C) or (B, H, W, C), or raise an ImageError."""
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4):
        hint = "An array must be (H, W), (H, W, C) or (B, H, W, C) with 1, 3 or 4 channels."
        if len(shape) in (3, 4) and shape[-3] in (1, 3, 4):
            axes = "1, 2, 0" if array.ndim == 3 else "0, 2, 3, 1"
            hint = f"The channels of an array must come last: image.transpose({axes})."
        raise ImageError(f"{name} is an array of shape {shape}. {hint}")
    check_size(array.shape[-3:-1], name, max_pixels)
    if array.dtype.name not in _ARRAY_DTYPES:
        raise _wrong_dtype(name, array.dtype)
    return array


def array_pixels(array: np.ndarray, name: str) -> Float[Tensor, "*b 3 h w"]:
    """Convert a checked array, or a part of one, to float32 colours in [0, 1]."""
    height, width = array.shape[-3:-1]
    if height * width > BAND_PIXELS and height > 1 and np.issubdtype(array.dtype, np.integer):
        whole = torch.empty((*array.shape[:-3], 3, height, width))
        for rows in _bands(height, width):
            whole[..., rows, :] = array_pixels(array[..., rows, :, :], name)
        return whole
    channels_first = rearrange(array, "... h w c -> ... c h w")
    pixels = torch.from_numpy(np.array(channels_first, dtype=array.dtype.newbyteorder("="), order="C"))
    pixels = to_unit_range(pixels, name).float()
    if pixels.shape[-3] == 4:
        colour, alpha = pixels.split((3, 1), dim=-3)
        pixels = colour * alpha + (1 - alpha)
    elif pixels.shape[-3] == 1:
        pixels = pixels.repeat_interleave(3, dim=-3)
    return pixels


def _bands(height: int, width: int) -> Iterator[slice]:
    """The rows of an image in groups of about a million pixels, so that copies of a large image stay small."""
    rows = max(1, BAND_PIXELS // width)
    return (slice(top, top + rows) for top in range(0, height, rows))


def checked_tensor(tensor: Tensor, name: str, max_pixels: int | None) -> Tensor:
    """Return a tensor (3, H, W) or (B, 3, H, W), or raise an ImageError."""
    shape = tuple(tensor.shape)
    if tensor.ndim not in (3, 4) or shape[-3] != 3:
        hint = "A tensor must be (3, H, W) or (B, 3, H, W)."
        if tensor.ndim in (3, 4) and shape[-1] == 3:
            axes = "2, 0, 1" if tensor.ndim == 3 else "0, 3, 1, 2"
            hint = f"The channels of a tensor must come first: image.permute({axes})."
        elif tensor.ndim in (3, 4) and shape[-3] == 1:
            hint = "Repeat its grey channel: image.expand(" + "-1, " * (tensor.ndim - 3) + "3, -1, -1)."
        raise ImageError(f"{name} is a tensor of shape {shape}. {hint}")
    check_size(shape[-2:], name, max_pixels)
    return tensor


def to_unit_range(pixels: Tensor, name: str) -> Tensor:
    """Divide integer levels by white, and return floats in [0, 1] unchanged; raise an ImageError for anything else."""
    if not pixels.shape[0]:
        raise ImageError(f"{name} is a batch with no images: {tuple(pixels.shape)}.")
    if pixels.dtype in _WHITE_LEVEL:
        return pixels.float().div_(_WHITE_LEVEL[pixels.dtype])
    if not pixels.is_floating_point():
        raise _wrong_dtype(name, pixels.dtype)
    if makes_graph():  # a graph has no values to check
        return pixels
    low, high = torch.stack(pixels.detach().aminmax()).tolist()  # a single wait for the GPU
    if not math.isfinite(low) or not math.isfinite(high):  # aminmax carries NaN through
        raise ImageError(f"{name} holds NaN or infinite values. Fix their source, or use nan_to_num.")
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return pixels
    if low >= -0.25 and high <= 1.25:  # bicubic and Lanczos kernels overshoot by this much
        hint = f"Clip the overshoot of a resize: image.clip(0, 1). {OVERSHOOT}"
    elif low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
        hint = "If it ranges from -1 to 1, pass (image + 1) / 2."
    elif ((pixels < 0) | (pixels > 1)).float().mean() < 0.3:  # a normalised photograph has more outside
        hint = f"Few of its values are; clip them: image.clip(0, 1). {OVERSHOOT}"
    elif low < 0:
        hint = "Undo its normalisation: image * std + mean."
    else:
        white = next((level for level in _WHITE_LEVEL.values() if high <= level), high)
        hint = f"Divide by its white level: image / {white:g}."
    raise ImageError(f"{name} has float values from {low:.4g} to {high:.4g}, not in [0, 1]. {hint}")


def _wrong_dtype(name: str, dtype: np.dtype | torch.dtype) -> ImageError:
    return ImageError(
        f"{name} has dtype {dtype}; pixels must be uint8 (0 to 255), uint16 (0 to 65535) or float (0 to 1). "
        "Divide it by its white level (1 for a mask)."
    )


def _size(images: Tensor) -> str:
    return "x".join(str(side) for side in images.shape[-2:])
