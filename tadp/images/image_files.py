"""Open image files, and decode photographs as upright pixels, and label and depth images as the values they store."""

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from math import floor, sqrt
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from tadp.errors import Argument, DatasetError, ImageError
from tadp.files.checks import is_out_of_memory, refuse_pointer

MIN_SIZE = 8  # one latent cell: the VAE of every Stable Diffusion has stride 8
# Pillow recognises a file by its content, and for some formats (EPS) starts another program to decode it.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "PSD", "TIFF", "WEBP")
SUFFIXES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".pgm", ".tif", ".tiff")  # of label and depth images
BAND_PIXELS = 2**20  # a large image is converted this many pixels at a time, so that copies of it stay small

_HEIF = "HEIF"  # registered by pillow-heif
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO 23008-12, Annex B
_EPS = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # the second begins files with a preview
# JPEG, WebP and AVIF change values, GIF renumbers them, and Pillow misreads BMP files with fewer colours than bits.
_EXACT = ("PNG", "PPM", "TIFF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_GREY_STEP = {"2": 85, "4": 17}  # Pillow spreads greys of 2 and 4 bits over 0 to 255
_MAIN_FRAME_FIRST = ("MPO", "PSD")  # the other frames are a camera's previews, or the layers of frame 0
# The errors that Pillow raised on 36,000 files damaged at random, and those that `PIL.Image.open` expects of plugins.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, LookupError, struct.error)


def is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image: one of `SUFFIXES`, or that of HEIC if its plug-in is installed."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and _reads_heif())


def _reads_heif() -> bool:
    """Whether Pillow reads HEIC. Its plug-in is registered first if it is installed."""
    if _HEIF not in Image.OPEN:
        with suppress(ImportError):  # it is not installed, or its library does not load
            import_module("pillow_heif").register_heif_opener()
    return _HEIF in Image.OPEN


def decode(source: str | Path | Image.Image, name: str, max_pixels: int | None) -> np.ndarray:
    """Decode upright pixels: (H, W) for greys with more than 8 bits, (H, W, 4) with transparency, else (H, W, 3)."""
    return decode_turned(source, name, max_pixels)[0]


def decode_turned(source: str | Path | Image.Image, name: str, max_pixels: int | None) -> tuple[np.ndarray, int]:
    """Decode pixels as `decode` does, and return the EXIF orientation by which they were turned, 1 to 8."""
    with _opened(source, name, max_pixels) as image:
        check_size((image.height, image.width), name, max_pixels)
        upright, orientation = _upright(image)
        if image.mode.startswith(("I", "F")):
            pixels = _array(upright, image.mode)
            # Pillow scales PGM files with more than 8 bits to 16
            return (pixels.astype(np.uint16) if image.format == "PPM" and image.mode == "I" else pixels), orientation
        return _array(upright, "RGBA" if image.has_transparency_data else "RGB"), orientation


def open_bytes(content: bytes) -> Image.Image:
    """Open a picture in memory, if it is in one of our formats, without reading its pixels.

    Raises:
        OSError: If it is not.
    """
    Image.init()
    return Image.open(io.BytesIO(content), formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _untouched(source: Path | Image.Image) -> Path | Image.Image:
    """A picture that can be prepared for reading labels without a change to the caller's."""
    file = getattr(source, "fp", None)
    if isinstance(source, Path) or file is None or not getattr(source, "tile", None):
        return source
    place = file.tell()
    file.seek(0)
    copied = open_bytes(file.read())
    file.seek(place)
    copied.seek(source.tell())
    return copied


class Stored(NamedTuple):
    """The content of a label or depth image.

    Attributes:
        values: The values, (H, W), uint8, int8, uint16, int32, uint32 or float32; or the colours, (H, W, 3), uint8.
        mode: Pillow's mode of the picture.
        palette: The red, green and blue of each index; empty if the picture has no palette.
    """

    values: np.ndarray
    mode: str
    palette: list[tuple[int, ...]]


def read_stored(path: Path) -> tuple[np.ndarray, str]:
    """Read the values of a label or depth image, and Pillow's mode of the picture; see `read_labels`."""
    values, mode, _ = read_labels(path)
    return values, mode


def read_labels(source: Path | Image.Image, name: str | None = None, *, as_colors: bool = False) -> Stored:
    """Read the values of a label or depth image as the file stores them, turned upright by its EXIF orientation.

    Pillow takes values for grey levels between black and white. It scales values of 2 and 4 bits, and of PGM files with
    another maximum, to 8 or 16 bits, and inverts files in which 0 is white. This function returns the values as stored,
    because they are class numbers or depths. For a picture with a palette, it returns the indices, not the colours.

    Args:
        source: The file; or a picture, whose values are those in its file only if its pixels are not loaded yet.
        name: The name of the picture for error messages; None, the default, is the path of the file.
        as_colors: Whether to read the colours of each pixel instead, (H, W, 3), uint8, without transparency.

    Raises:
        ImageError: If the file is missing or damaged, or is not an image.
        DatasetError: If the file has several values per pixel, or its format changes values, as JPEG does.
    """
    name = str(source) if name is None else name
    with _opened(_untouched(source), name, None) as image:
        if image.format not in (*_EXACT, None) or image.info.get("compression") in _LOSSY_TIFF:
            raise DatasetError(
                f"{name} is a {image.format} file, which may change values; a mask or depth must be a PNG, PGM or TIFF "
                "without lossy compression. Use the files that came with the data set."
            )
        if as_colors:
            return Stored(_array(_upright(image)[0], "RGB"), image.mode, [])
        if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
            kind = "a picture with transparency" if image.mode in ("LA", "La", "PA") else "a colour picture"
            raise DatasetError(
                f"{name} is {kind} (mode {image.mode}); a mask must have one value per pixel, and so must depth. Use "
                "the files that came with the data set, or, for coloured masks, pass ",
                Argument("palette", ...),
                ", the class of each colour.",
            )
        restore = _restorer(image)
        colors = (image.getpalette("RGB") if image.mode == "P" else None) or []
        palette = list(zip(colors[::3], colors[1::3], colors[2::3], strict=True))
        return Stored(restore(_array(_upright(image)[0], image.mode)), image.mode, palette)


def orientation_of(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8.

    Raises:
        ImageError: If the file is missing or damaged, or is not an image.
    """
    with _opened(path, str(path), None) as image:
        return _orientation(image)


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, turned upright, in pixels. Only its header is read.

    Raises:
        ImageError: If the file is missing or is not an image.
    """
    with _opened(path, str(path), None) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow may have turned its size already
            tags: Any = image
            width, height = tags.tag_v2[256], tags.tag_v2[257]
        exif = Image.Image.getexif(image)  # that of a PNG would read the pixels, behind which there may be one
        return (width, height) if exif.get(ExifTags.Base.Orientation) in range(5, 9) else (height, width)


def check_size(image_size: tuple[int, ...], name: str, max_pixels: int | None) -> None:
    """Refuse an image that is empty, too small, or larger than `max_pixels`, with an ImageError."""
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


@contextmanager
def _opened(source: str | Path | Image.Image, name: str, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open a file or use a picture, and turn whatever Pillow raises meanwhile into an ImageError."""
    try:
        with _without_halves(), _unread(source, name) as image:
            animated = image is not source and getattr(image, "is_animated", False)
            if animated and image.format not in _MAIN_FRAME_FIRST:
                raise ImageError(
                    f"{name} has several frames (animation or pages), but one image is expected. Choose a frame: "
                    f"image = PIL.Image.open({name}); image.seek(0)."
                )
            if image.format == "TIFF":
                _read_native_order(image)
            yield image
    except (ImageError, DatasetError):
        raise
    except FileNotFoundError as error:
        hint = "Download it first" if "://" in name else "Check its spelling and the working folder"
        raise ImageError(f"no such file: {name}. {hint}.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder; pass an image in it. tadp.images.list_images lists them.") from error
    except PermissionError as error:
        raise ImageError(f"no permission to read {name}. Change its mode: chmod +r {name}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\((\d+) pixels\)", str(error))[0])
        if max_pixels is not None and pixels > max_pixels:
            raise _too_large(name, pixels, max_pixels) from error
        raise ImageError(
            f"{name} has {pixels / 1e6:.4g} megapixels, more than Pillow opens. Shrink it, or also lift Pillow's "
            "limit: PIL.Image.MAX_IMAGE_PIXELS = None."
        ) from error
    except _DECODE_ERRORS as error:
        if is_out_of_memory(error) or "out of memory" in str(error):  # an OSError of Pillow's decoders without a number
            raise MemoryError(f"{name} needs more memory than there is ({error}).") from error
        raise ImageError(f"{name} is damaged or cut short ({error}). Copy or download it again.") from error


@contextmanager
def _unread(source: str | Path | Image.Image, name: str) -> Iterator[Image.Image]:
    """A picture before its pixels are read, from a regular file in one of our formats or from the caller."""
    if isinstance(source, Image.Image):
        if source.format == "EPS" and getattr(source, "tile", None):
            raise ImageError(f"{name} is an EPS that is not loaded, and Pillow would start Ghostscript. Load it first.")
        yield source
        return
    path = Path(source)
    if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe would wait for its writer
        raise ImageError(f"{name} is a pipe or device, not a file. Write its content to a file first.")
    Image.init()
    formats = (*FORMATS, _HEIF) if _is_heif(path) and _reads_heif() else FORMATS
    try:
        image = Image.open(path, formats=[kind for kind in formats if kind in Image.OPEN])
    except UnidentifiedImageError as error:
        refuse_pointer(path, ImageError)
        raise ImageError(f"{name} {_unknown(path)}") from error
    with image:
        # A file with a name is mapped into memory, and of a turned TIFF Pillow then reads rows of the wrong length.
        image.filename = ""
        yield image


def _read_native_order(image: Any) -> None:
    """Make Pillow read the numbers of a compressed TIFF in this machine's byte order, in which libtiff returns them.

    It does so for unsigned numbers, and swaps the bytes of signed ones and of fractions once more.
    """
    for number, tile in enumerate(image.tile):
        if tile[0] == "libtiff":
            rawmode, *arguments = tile[3]
            rawmode = re.sub(r"^(I;16|I;32|F;32)B?(S|F)$", r"\1N\2", rawmode)
            image.tile[number] = type(tile)(*tile[:3], (rawmode, *arguments))  # a named tuple of Pillow


def _unknown(path: Path) -> str:
    """What is wrong with a file that is in none of our formats."""
    if _is_heif(path) and not _reads_heif():
        return "is a HEIC image, which needs a plug-in: pip install pillow-heif. Or convert it to PNG or JPEG."
    kind = "EPS" if _head(path)[:4] in _EPS else Image.EXTENSION.get(path.suffix.lower(), "PNG")
    if kind not in (*FORMATS, _HEIF):
        return f"is of a format that tadp does not open, {kind}. Convert it to PNG or JPEG."
    return "is not an image that Pillow can read. Convert it to PNG or JPEG."


def _is_heif(path: Path) -> bool:
    """Whether a file begins like a HEIC image."""
    head = _head(path)
    return head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


class _TrueElsewhere(int):
    """`True` in every thread but those that read an image here."""

    def __bool__(self) -> bool:
        return get_ident() not in _reading


_reading: set[int] = set()  # threads that read an image while another library lets Pillow accept half an image
_lock = Lock()


@contextmanager
def _without_halves() -> Iterator[None]:
    """Let Pillow refuse truncated images in this thread, although another library told it to fill them up.

    That setting is a global of Pillow, and the threads of that library must still find it set.
    """
    setting: Any = ImageFile.LOAD_TRUNCATED_IMAGES
    if not setting and not isinstance(setting, _TrueElsewhere):
        yield
        return
    with _lock:
        _reading.add(get_ident())
        ImageFile.LOAD_TRUNCATED_IMAGES = _TrueElsewhere(1)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        with _lock:
            _reading.discard(get_ident())
            if not _reading and isinstance(ImageFile.LOAD_TRUNCATED_IMAGES, _TrueElsewhere):
                ImageFile.LOAD_TRUNCATED_IMAGES = True


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(2, 9) else 1


def _upright(image: Image.Image) -> tuple[Image.Image, int]:
    """The picture turned by its EXIF orientation, and that orientation. It is only copied if it must be turned."""
    orientation = _orientation(image)
    image.load()  # which already turns a TIFF
    return (image if _orientation(image) == 1 else ImageOps.exif_transpose(image)), orientation


def _array(image: Image.Image, mode: str) -> np.ndarray:
    """A picture's pixels in a mode. Converted as a whole, the picture would be copied three times more."""
    rows = max(1, BAND_PIXELS // max(1, image.width))

    def band(top: int) -> np.ndarray:
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        return np.asarray(part if part.mode == mode else part.convert(mode))

    first = band(0)
    array = np.empty((image.height, *first.shape[1:]), first.dtype)
    array[:rows] = first
    for top in range(rows, image.height, rows):
        array[top : top + rows] = band(top)
    return array


def _restorer(image: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Prepare a picture that is not loaded yet; return the function from Pillow's values to those in the file."""
    if not getattr(image, "tile", None):  # loaded, or made in memory
        return lambda values: values.astype(np.uint8) if image.mode == "1" else values
    codec, extents, offset, arguments = image.tile[0]
    rawmode = arguments if isinstance(arguments, str) else str(arguments[0])
    if image.format == "PPM" and codec == "ppm":  # it would scale the values, and cut those above the file's white
        image.tile = [(codec := "raw", extents, offset, "I;16B" if image.mode == "I" else image.mode)]
    white = int(arguments[-1]) if codec == "ppm_plain" and image.mode != "1" else None
    depth = rawmode.partition(";")[2].rstrip("R") if image.mode in ("1", "L") else ""
    is_signed = image.mode == "L" and image.format == "TIFF" and image.tag_v2.get(339) == (2,)  # SampleFormat
    is_unsigned = image.mode == "I" and image.format == "TIFF" and rawmode == "I;32N"

    def restore(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.uint8 if image.mode == "1" else values.dtype.newbyteorder("="), copy=False)
        if depth.endswith("I"):  # 0 is white
            values = (1 if image.mode == "1" else 255) - values
        if image.format == "PPM" and image.mode == "I":
            values = values.astype(np.uint16)
        if white is not None:
            full = np.iinfo(values.dtype).max
            values = ((values.astype(np.int64) * white + full // 2) // full).astype(values.dtype)
        step = _GREY_STEP.get(depth.rstrip("I"))
        if is_signed or is_unsigned:
            return values.view(np.int8 if is_signed else np.uint32)
        return values if step is None else values // step

    return restore


def _too_large(name: str, pixels: int, max_pixels: int) -> ImageError:
    percent = floor(100 * sqrt(max_pixels / pixels))
    return ImageError(
        f"{name} has {pixels / 1e6:.4g} megapixels; the limit is {max_pixels / 1e6:.4g}. "
        f"Shrink its sides to {percent} % or less, or raise max_pixels."
    )
