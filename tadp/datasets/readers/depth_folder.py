"""Your own images and depth, in two folders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError
from tadp.datasets.readers.label_files import check_label_size
from tadp.datasets.readers.paired_folders import Folder, Unpaired, pair_folders, shared_folder
from tadp.datasets.sample import Sample
from tadp.errors import Argument, CorruptFileError, DatasetError, ImageError, OptionError
from tadp.files.checks import check_numbers, check_regular, need
from tadp.images.image_files import LABEL_SUFFIXES, read_stored

DEPTH_SUFFIXES = (".npy", ".exr", *LABEL_SUFFIXES)
_LIKELY_M = (0.05, 1000.0)  # medians outside are those of another unit: millimetres read as metres, or the reverse


class DepthFolder(FolderDataset):
    """Your own images in one folder, and depth with the same names in another: rgb/a.jpg and depth/a.png.

    Depth is a grey picture with 16 bits (PNG, PGM, TIFF), a TIFF of floats, a NumPy array (H, W) in a .npy file, or an
    EXR (`pip install OpenEXR`; its channel Z, Y or R). In a sample, depth is in metres, and 0 where it is unknown: in
    files it is 0, NaN, infinite or `invalid` there.

    Image ids are paths below the folder of images without suffix, such as "a" or "kitchen/a". If all images are in
    folders named train, val (or valid, validation) and test, these are the `splits`.

    Args:
        images: The folder of images and of subfolders with images. Or a folder for each split by its name.
        depths: The folder of depth files. Or a folder for each split.
        scale: The metres of one unit in the files, such as 0.001 for millimetres. None, the default, is 0.001 for whole
            numbers and 1 for floats, and raises an error if the median depth of an image is then unlikely.
        invalid: A value in the files that means unknown, besides 0, such as 65535; None, the default, for no other.
        depth_suffix: The text after the image's name in the names of depth files, such as "_depth"; "" by default.
            Depth files may then be in the folder of images.
        ids: The images to read: a sequence of ids or file names, or the path of a text file with one per line. None,
            the default, reads all.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens if images have no depth. "raise", the default, raises an error that names one; "skip"
            leaves them out with a warning. Depth without image is not used, with a warning.

    Raises:
        MissingDataError: If a folder is missing or empty, or an image has no depth. The message says which.
        UnknownIdError: If `captions` lacks the caption of an image.
        ValueError: If `scale` is not above 0, or the names of two images differ only in their suffix.
    """

    tasks = ("depth",)

    def __init__(
        self,
        images: Folder,
        depths: Folder,
        *,
        scale: float | None = None,
        invalid: float | None = None,
        depth_suffix: str = "",
        ids: Sequence[str] | str | Path | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        unpaired: Unpaired = "raise",
    ):
        self._unit = DepthUnit(scale, invalid)
        pairs = pair_folders(
            images,
            depths,
            what="depth",
            label_suffixes=DEPTH_SUFFIXES,
            label_end=depth_suffix,
            ids=ids,
            unpaired=unpaired,
        )
        root = shared_folder(images)
        super().__init__(
            pairs.records,
            name=f"DepthFolder {root.name!r}",
            advice=f"Each image needs a depth file of the same name: a{depth_suffix}.png for a.jpg. Pass "
            "unpaired='skip' (--unpaired skip) to leave out images without depth.",
            captions=captions,
            on_error=on_error,
            splits=pairs.splits,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        values = read_depth_values(path)
        depth_m, warning = self._unit.to_metres(values, path)
        check_label_size(sample, path, depth_m.shape, kind="depth")
        if warning:
            self._warn_once("unit", warning)
        return replace(sample, depth_m=depth_m)


@dataclass(frozen=True)
class DepthUnit:
    """What the values of depth mean; see `DepthFolder`.

    Attributes:
        scale: The metres of one unit; None for millimetres in whole numbers and metres in floats.
        invalid: A value that means unknown, besides 0; None for no other.
    """

    scale: float | None = None
    invalid: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_numbers(scale=self.scale)
            if self.scale <= 0:
                raise OptionError(Argument("scale"), f" must be above 0, the metres of one unit; got {self.scale}.")

    def to_metres(self, values: np.ndarray, where: Path | str) -> tuple[Float32[np.ndarray, "_h _w"], str]:
        """Convert values to metres, with 0 for unknown.

        Returns:
            The depth, and a warning about it, which may be "".

        Raises:
            DatasetError: If depth is negative, or its median is only likely in another unit and no scale was passed.
        """
        if values.ndim != 2 or values.dtype.kind not in "iuf":
            raise DatasetError(f"{where} must hold one number per pixel, (H, W); got {values.dtype} {values.shape}.")
        is_known = np.isfinite(values) & (values != 0)
        if self.invalid is not None:
            is_known &= values != self.invalid
        known = values[is_known]
        if not known.size:
            return np.zeros(values.shape, np.float32), f"{where} has no known depth: all values mean unknown."
        if known.min() < 0:
            raise DatasetError(
                f"{where} has negative depth, such as {known.min():g}. If that value means unknown, pass ",
                Argument("invalid", known.min().item()),
                ".",
            )
        scale = self.scale or (1.0 if values.dtype.kind == "f" else 0.001)
        depth_m = np.where(is_known, values, 0).astype(np.float32) * np.float32(scale)
        median = float(np.median(known)) * scale
        if _LIKELY_M[0] <= median <= _LIKELY_M[1]:
            return depth_m, ""
        text = (
            f"{where}: the median depth is {median:.4g} m, if one unit is {scale:g} m; likely medians are "
            f"{_LIKELY_M[0]} to {_LIKELY_M[1]:g} m"
        )
        if self.scale is None:
            raise DatasetError(f"{text}. Pass ", Argument("scale", ...), ", the metres of one unit.")
        return depth_m, f"{text}; check `scale` (--scale)."


def read_depth_values(path: Path) -> np.ndarray:
    """Read the values of a depth file as they are stored, (H, W).

    Raises:
        ImageError: If the file is missing or damaged.
        DatasetError: If it does not hold one number per pixel, or a picture of 8 bits.
        MissingExtraError: If it is an EXR and OpenEXR is not installed.
    """
    if path.suffix.lower() == ".npy":
        try:
            check_regular(path)
            values = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # the size is compared with the file
        except (
            OSError,
            ValueError,
            TypeError,
            OverflowError,
            EOFError,
            TokenError,
            BadZipFile,
            CorruptFileError,
        ) as error:
            raise ImageError(
                f"{path} is not a NumPy array of numbers ({error}). Save it again with numpy.save."
            ) from error
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    elif path.suffix.lower() == ".exr":
        values = _read_exr(path)
    else:
        values, mode = read_stored(path)
        check_depth_bits(values, mode, path)
    return values


def check_depth_bits(values: np.ndarray, mode: str, where: Path | str) -> None:
    """Refuse depth in a picture of 8 bits.

    Args:
        values: The depth.
        mode: Pillow's mode of the picture; "" for an array, which may have 8 bits.
        where: The file, for the message.
    """
    if mode and values.dtype in (np.uint8, np.int8):
        raise DatasetError(
            f"{where} is a picture of mode {mode}; depth must have 16 bits or floats. 8-bit pictures are only for "
            "viewing: use the files of the sensor."
        )


def _read_exr(path: Path) -> np.ndarray:
    package = need("OpenEXR", install="pip install OpenEXR")
    try:
        check_regular(path)
        with package.File(str(path)) as file:
            if not file.parts:  # OpenEXR leaves out those that it cannot read
                raise ValueError("none of its parts is complete")
            channels = {name: channel.pixels for part in file.parts for name, channel in part.channels.items()}
    except (RuntimeError, OSError, ValueError, CorruptFileError) as error:
        raise ImageError(f"{path} cannot be read as EXR ({error}). Copy or download it again.") from error
    for name in ("Z", "depth.Z", "Y", "R", "RGB", "RGBA", "V"):
        if name in channels:
            pixels = np.asarray(channels[name], dtype=np.float32)
            if pixels.ndim == 2:
                return pixels
            if np.array_equal(pixels[..., :1].repeat(3, axis=2), pixels[..., :3], equal_nan=True):
                return pixels[..., 0]
            raise DatasetError(f"{path} is a colour picture; depth must be in the channel Z, Y or R, or be grey.")
    raise DatasetError(f"{path} has the channels {', '.join(channels)}; depth must be in Z, Y or R.")
