"""Read images as one tensor (B, 3, H, W) in [0, 1], pad them to a multiple of a stride, and crop their maps back.

Channels are red, green, blue. An array in BGR order, which `cv2.imread` returns, cannot be recognised as such: reverse
its channels with `image[..., ::-1]` first. Colour profiles are not applied.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from glob import glob
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tadp.errors import ImageError
from tadp.files.checks import check_whole

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

MIN_SIZE = 8  # one latent cell: the VAE of every Stable Diffusion has stride 8
MAX_PIXELS = 1024**3 // 4 // 3  # 89 megapixels: where Pillow begins to warn of a decompression bomb
SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_WHITE_LEVEL = {torch.uint8: 255, torch.uint16: 65535}
_ARRAY_DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
_TOLERANCE = 0.01  # resizing may overshoot by a rounding error, which is 0.008 in bfloat16
_MAIN_FRAME_FIRST = ("MPO", "PSD")  # the other frames are a camera's previews, or the layers of frame 0
# The errors that Pillow raised on 36,000 files damaged at random, and those that `PIL.Image.open` expects of plugins.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, LookupError, struct.error)


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
    pixels = _read(image, "image", max_pixels)
    if len(pixels) != 1:
        raise ImageError(f"expected one image; got a batch of {len(pixels)}. Pass them one at a time.")
    levels = pixels[0].detach().float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return Image.fromarray(rearrange(levels, "c h w -> h w c").contiguous().cpu().numpy())


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
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
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
    return torch.cat(batches)


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
    return feature[..., :height, :width]


def list_images(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the image files that files, folders and glob patterns stand for.

    A file is listed whatever its suffix. A folder stands for all images in it and its subfolders. There, images are
    recognised by their suffix (one of `tadp.images.SUFFIXES`, in lower or upper case), and hidden files and
    folders are left out. A pattern, such as `"photos/**/*.png"`, stands for the images and folders that it matches.

    Args:
        paths: One path or several. A file that several paths lead to is listed once.

    Returns:
        Paths of the images, in the order of `paths` and sorted within each folder or pattern.

    Raises:
        ImageError: If one of the paths leads to no image.
    """
    listed: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if Path(path).is_file():
            listed[Path(path)] = None
            continue
        roots = [path] if Path(path).is_dir() else glob(str(path), recursive=True)  # noqa: PTH207  a pattern may be absolute
        if not roots:
            raise ImageError(f"{str(path)!r} is not a file or folder, and no file matches it. Check its spelling.")
        images = sorted(image for root in roots for image in _images_below(Path(root)))
        if not images:
            raise ImageError(f"{str(path)!r} holds no images. Images end in {', '.join(SUFFIXES)}.")
        listed.update(dict.fromkeys(images))
    return list(listed)


def _images_below(root: Path) -> Iterator[Path]:
    for path in root.rglob("*") if root.is_dir() else [root]:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _read(image: ImageLike, name: str, max_pixels: int | None) -> Float[Tensor, "b 3 h w"]:
    if isinstance(image, str | Path):
        name = repr(str(image))
    if isinstance(image, str | Path | Image.Image):
        return _from_array(decode(image, name, max_pixels), name, max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, name, max_pixels)
    if isinstance(image, Tensor):
        return _from_tensor(image, name, max_pixels)
    raise TypeError(f"{name} must be a path, PIL image, NumPy array or tensor; got {type(image).__name__}.")


def decode(source: str | Path | Image.Image, name: str, max_pixels: int | None) -> np.ndarray:
    """Decode upright pixels as they are stored: (H, W) for greys with more than 8 bits, (H, W, 4) with transparency,
    and (H, W, 3) otherwise.
    """
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
            _check_size((image.height, image.width), name, max_pixels)
            animated = image is not source and getattr(image, "is_animated", False)
            if animated and image.format not in _MAIN_FRAME_FIRST:
                raise ImageError(
                    f"{name} has several frames (animation or pages), but one image is expected. Choose a frame: "
                    f"image = PIL.Image.open({name}); image.seek(0)."
                )
            upright = ImageOps.exif_transpose(image)
            if image.format == "PPM" and image.mode == "I":  # Pillow scales PGM files with more than 8 bits to 16
                return np.asarray(upright).astype(np.uint16)
            if image.mode.startswith(("I", "F")):
                return np.asarray(upright)
            return np.asarray(upright.convert("RGBA" if image.has_transparency_data else "RGB"))
    except ImageError:
        raise
    except FileNotFoundError as error:
        hint = "Download it first" if "://" in name else "Check its spelling and the working folder"
        raise ImageError(f"no such file: {name}. {hint}.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder; pass an image in it. tadp.images.list_images lists them.") from error
    except PermissionError as error:
        raise ImageError(f"no permission to read {name}. Change its mode: chmod +r {name}.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that Pillow can read. Convert it to PNG or JPEG.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\((\d+) pixels\)", str(error))[0])
        if max_pixels is not None and pixels > max_pixels:
            raise _too_large(name, pixels, max_pixels) from error
        raise ImageError(
            f"{name} has {pixels / 1e6:.4g} megapixels, more than Pillow opens. Shrink it, or also lift Pillow's "
            "limit: PIL.Image.MAX_IMAGE_PIXELS = None."
        ) from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or cut short ({error}). Copy or download it again.") from error


def _from_array(array: np.ndarray, name: str, max_pixels: int | None) -> Float[Tensor, "b 3 h w"]:
    pixels = array_pixels(checked_array(array, name, max_pixels), name)
    return pixels if pixels.ndim == 4 else pixels[None]


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
    _check_size(array.shape[-3:-1], name, max_pixels)
    if array.dtype.name not in _ARRAY_DTYPES:
        raise _wrong_dtype(name, array.dtype)
    return array


def array_pixels(array: np.ndarray, name: str) -> Float[Tensor, "*b 3 h w"]:
    """Convert a checked array, or a part of one, to float32 colours in [0, 1]."""
    channels_first = rearrange(array, "... h w c -> ... c h w")
    pixels = torch.from_numpy(np.array(channels_first, dtype=array.dtype.newbyteorder("="), order="C"))
    pixels = to_unit_range(pixels, name).float()
    if pixels.shape[-3] == 4:
        colour, alpha = pixels.split((3, 1), dim=-3)
        pixels = colour * alpha + (1 - alpha)
    elif pixels.shape[-3] == 1:
        pixels = pixels.repeat_interleave(3, dim=-3)
    return pixels


def _from_tensor(tensor: Tensor, name: str, max_pixels: int | None) -> Float[Tensor, "b 3 h w"]:
    pixels = to_unit_range(checked_tensor(tensor, name, max_pixels), name)
    return pixels if pixels.ndim == 4 else pixels[None]


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
    _check_size(shape[-2:], name, max_pixels)
    return tensor


def to_unit_range(pixels: Tensor, name: str) -> Tensor:
    """Divide integer levels by white, and return floats in [0, 1] unchanged; raise an ImageError for anything else."""
    if not pixels.shape[0]:
        raise ImageError(f"{name} is a batch with no images: {tuple(pixels.shape)}.")
    if pixels.dtype in _WHITE_LEVEL:
        return pixels.float().div_(_WHITE_LEVEL[pixels.dtype])
    if not pixels.is_floating_point():
        raise _wrong_dtype(name, pixels.dtype)
    if torch.compiler.is_compiling():  # a graph has no values to check
        return pixels
    low, high = (bound.item() for bound in pixels.detach().aminmax())
    if not math.isfinite(low) or not math.isfinite(high):  # aminmax carries NaN through
        raise ImageError(f"{name} holds NaN or infinite values. Fix their source, or use nan_to_num.")
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return pixels
    if low >= -0.25 and high <= 1.25:  # bicubic and Lanczos kernels overshoot by this much
        hint = "Clip the overshoot of a resize: image.clip(0, 1)."
    elif low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
        hint = "If it ranges from -1 to 1, pass (image + 1) / 2."
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


def _check_size(image_size: tuple[int, ...], name: str, max_pixels: int | None) -> None:
    height, width = image_size
    shorter = min(image_size)
    if shorter == 0:
        raise ImageError(f"{name} is empty: {height}x{width} pixels (height x width).")
    if shorter < MIN_SIZE:
        larger = "x".join(str(-(-side * MIN_SIZE // shorter)) for side in image_size)
        raise ImageError(
            f"{name} is {height}x{width} pixels (height x width); both sides must be at least {MIN_SIZE}. "
            f"Resize it to {larger} or more."
        )
    if max_pixels is not None and height * width > max_pixels:
        raise _too_large(name, height * width, max_pixels)


def _too_large(name: str, pixels: int, max_pixels: int) -> ImageError:
    percent = math.floor(100 * math.sqrt(max_pixels / pixels))
    return ImageError(
        f"{name} has {pixels / 1e6:.4g} megapixels; the limit is {max_pixels / 1e6:.4g}. "
        f"Shrink its sides to {percent} % or less, or raise max_pixels."
    )


def _size(images: Tensor) -> str:
    return "x".join(str(side) for side in images.shape[-2:])
