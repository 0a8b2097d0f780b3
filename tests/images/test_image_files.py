"""Opening image files: stored values of label images, formats, halves of images, pipes, memory."""

import errno
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from running import run_function
from stored_images import write_pgm, write_png, write_tiff

from tadp.errors import DatasetError, ImageError
from tadp.images import SUFFIXES, image_files, list_images, to_pil, to_tensor
from tadp.images.crops import Crops
from tadp.images.image_files import LABEL_SUFFIXES, orientation_of, read_stored

ORIENTATION = 0x0112
SIZE = (9, 13)  # no multiple of 8, so that rows of 1, 2 and 4 bits end within a byte


def values_of(depth: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**depth, SIZE)


def assert_stored(path: Path, values: np.ndarray) -> None:
    stored, _ = read_stored(path)
    np.testing.assert_array_equal(stored, values)


class TestStoredValues:
    @pytest.mark.parametrize("palette", [False, True])
    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_a_png_of_any_depth_keeps_its_values(self, tmp_path, depth, palette):
        values = values_of(depth)
        assert_stored(write_png(tmp_path / "a.png", values, depth=depth, palette=palette), values)

    def test_16_bits_are_kept_in_every_format(self, tmp_path):
        values = values_of(16)
        assert_stored(write_png(tmp_path / "a.png", values, depth=16), values)
        assert_stored(write_tiff(tmp_path / "a.tif", values, depth=16), values)
        for plain in (False, True):
            assert_stored(write_pgm(tmp_path / "a.pgm", values, white=65535, plain=plain), values)

    @pytest.mark.parametrize("photometric", [0, 1])
    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_a_tiff_is_not_inverted_even_if_0_is_its_white(self, tmp_path, depth, photometric):
        values = values_of(depth)
        assert_stored(write_tiff(tmp_path / "a.tif", values, depth=depth, photometric=photometric), values)

    @pytest.mark.parametrize("is_compressed", [False, True])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize(("depth", "sample_format"), [(8, 2), (16, 2), (32, 2), (32, 3)])
    def test_signed_and_float_tiffs_keep_their_values(self, tmp_path, depth, sample_format, order, is_compressed):
        values = values_of(7).astype(np.int64) - 60
        exact = values / 8 if sample_format == 3 else values
        written = {"depth": depth, "sample_format": sample_format, "order": order, "is_compressed": is_compressed}
        assert_stored(write_tiff(tmp_path / "a.tif", exact, **written), exact)

    @pytest.mark.parametrize("is_compressed", [False, True])
    def test_32_bits_without_sign_keep_their_values(self, tmp_path, is_compressed):
        values = values_of(32)
        assert values.max() > 2**31
        path = write_tiff(tmp_path / "a.tif", values, depth=32, order="<", is_compressed=is_compressed)
        assert_stored(path, values)

    def test_a_photograph_in_a_compressed_big_endian_tiff_of_fractions_is_read(self, tmp_path):
        values = values_of(7) / 128
        path = write_tiff(tmp_path / "a.tif", values, depth=32, sample_format=3, is_compressed=True)
        assert np.array_equal(to_tensor(path)[0, 0].numpy(), values)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
    def test_compression_without_loss_changes_nothing(self, tmp_path, compression, dtype):
        values = values_of(7).astype(dtype)
        Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
        assert_stored(tmp_path / "a.tif", values)

    def test_a_fax_keeps_its_bits(self, tmp_path):
        values = values_of(1)
        Image.fromarray(values.astype(bool)).save(tmp_path / "a.tif", compression="group4")
        assert_stored(tmp_path / "a.tif", values)

    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("white", [1, 2, 20, 127, 254, 255, 256, 300, 1000, 65534, 65535])
    def test_the_white_of_a_pgm_scales_no_value(self, tmp_path, white, plain):
        values = np.linspace(0, white, 9 * 13).round().astype(np.int64).reshape(SIZE)
        assert_stored(write_pgm(tmp_path / "a.pgm", values, white=white, plain=plain), values)

    def test_values_above_a_pgms_white_are_not_cut_to_it(self, tmp_path):
        values = values_of(8)
        assert_stored(write_pgm(tmp_path / "a.pgm", values, white=20), values)
        with pytest.raises(ImageError, match="too large"):
            read_stored(write_pgm(tmp_path / "a.pgm", values, white=20, plain=True))

    def test_a_1_in_a_pbm_is_a_1_although_it_is_black(self, tmp_path):
        values = values_of(1)
        rows = b"".join(np.packbits(row).tobytes() for row in values.astype(np.uint8))
        (tmp_path / "a.pbm").write_bytes(b"P4\n13 9\n" + rows)
        assert_stored(tmp_path / "a.pbm", values)
        (tmp_path / "b.pbm").write_bytes(b"P1\n13 9\n" + " ".join(map(str, values.ravel())).encode() + b"\n")
        assert_stored(tmp_path / "b.pbm", values)

    def test_photographs_still_have_their_levels(self, tmp_path):
        values = values_of(4)
        picture = to_pil(write_png(tmp_path / "a.png", values, depth=4))
        np.testing.assert_array_equal(np.asarray(picture)[..., 0], 17 * values)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("mode", "suffix"), [("L", "png"), ("P", "png"), ("I;16", "png"), ("L", "tif"), ("F", "tif")]
    )
    def test_labels_are_turned_as_the_image_is(self, tmp_path, mode, suffix, orientation):
        values = values_of(7)
        dtype = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture = Image.fromarray(values.astype(dtype))
        if mode == "P":
            picture.putpalette([number for number in range(256) for _ in range(3)][::-1])
        picture.save(tmp_path / f"mask.{suffix}", exif=exif)
        for suffix_of_image in ("png", "tif"):
            Image.fromarray((2 * values).astype(np.uint8)).save(tmp_path / f"image.{suffix_of_image}", exif=exif)
        assert orientation_of(tmp_path / f"mask.{suffix}") == orientation
        upright = np.asarray(to_pil(tmp_path / "image.png"))[..., 0] // 2
        np.testing.assert_array_equal(np.asarray(to_pil(tmp_path / "image.tif"))[..., 0] // 2, upright)
        assert_stored(tmp_path / f"mask.{suffix}", upright)


class TestRefusedLabels:
    @pytest.mark.parametrize(
        ("mode", "message"),
        [
            ("RGB", r"a.png is a colour picture \(mode RGB\); a mask must have one value"),
            ("RGBA", r"a colour picture \(mode RGBA\)"),
            ("LA", r"a picture with transparency \(mode LA\)"),
        ],
    )
    def test_several_values_per_pixel_are_refused(self, tmp_path, mode, message):
        Image.new(mode, (13, 9)).save(tmp_path / "a.png")
        with pytest.raises(DatasetError, match=message):
            read_stored(tmp_path / "a.png")

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000"])
    def test_formats_that_change_values_are_refused_whatever_their_name(self, tmp_path, kind):
        Image.fromarray(values_of(4).astype(np.uint8)).save(tmp_path / "a.png", kind)
        with pytest.raises(
            DatasetError, match=rf"a.png is a {kind} file, which may change values; .* PNG, PGM or TIFF"
        ):
            read_stored(tmp_path / "a.png")

    def test_a_tiff_with_jpeg_inside_is_refused(self, tmp_path):
        Image.fromarray(values_of(4).astype(np.uint8)).save(tmp_path / "a.tif", compression="jpeg")
        with pytest.raises(DatasetError, match="which may change values"):
            read_stored(tmp_path / "a.tif")

    def test_pages_and_damage_are_refused(self, tmp_path):
        pages = [Image.fromarray(values_of(4, seed=seed).astype(np.uint8)) for seed in (0, 1)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        with pytest.raises(ImageError, match="has several frames"):
            read_stored(tmp_path / "a.tif")
        write_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64)), depth=8)
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:1500])
        with pytest.raises(ImageError, match=r"a.png is damaged or cut short"):
            read_stored(tmp_path / "a.png")


class TestHalves:
    """Another library has told Pillow, for the whole process, to fill truncated images up with grey or black."""

    @pytest.fixture(autouse=True)
    def lenient(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    @pytest.fixture
    def noise(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif", "bmp", "gif", "pgm", "jp2"])
    def test_half_an_image_is_refused(self, tmp_path, noise, suffix):
        path = tmp_path / f"cat.{suffix}"
        Image.fromarray(noise).save(path)
        expected = np.asarray(to_pil(path))
        assert expected.shape == (64, 64, 3)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        for read in (to_pil, to_tensor):
            with pytest.raises(ImageError, match=rf"cat\.{suffix}' is (damaged|not an image)"):
                read(path)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True

    def test_half_a_mask_and_half_a_picture_of_the_caller_are_refused(self, tmp_path, noise):
        for suffix in ("png", "tif", "pgm"):
            path = tmp_path / f"mask.{suffix}"
            Image.fromarray(noise).save(path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
            with pytest.raises(ImageError, match="damaged"):
                read_stored(path)
        with Image.open(tmp_path / "mask.png") as picture, pytest.raises(ImageError, match="image is damaged"):
            to_pil(picture)

    def test_threads_of_the_other_library_still_get_their_halves(self, tmp_path, noise):
        path = tmp_path / "cat.jpg"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

        def ours(_: int) -> str:
            try:
                to_pil(path)
            except ImageError:
                return "refused"
            return "read"

        def theirs(_: int) -> str:
            with Image.open(path) as picture:
                picture.load()
            return "filled up"

        with ThreadPoolExecutor(8) as pool:
            results = [pool.submit(ours if number % 2 else theirs, number) for number in range(400)]
            assert {result.result() for result in results[1::2]} == {"refused"}
            assert {result.result() for result in results[::2]} == {"filled up"}
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("setting", [False, 0, None])
def test_a_setting_that_refuses_halves_stays_as_it_is(tmp_path, monkeypatch, setting):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", setting)
    Image.new("RGB", (13, 9)).save(tmp_path / "a.png")
    with image_files._without_halves():
        assert ImageFile.LOAD_TRUNCATED_IMAGES is setting
    assert to_pil(tmp_path / "a.png").size == (13, 9)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is setting


class TestFormats:
    def test_an_eps_never_starts_ghostscript(self, tmp_path, monkeypatch):
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
        path = tmp_path / "cat.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(cat) show\n%%EOF\n")
        for read in (to_pil, to_tensor, read_stored):
            with pytest.raises(ImageError, match=r"cat.png'? is of a format that tadp does not open, EPS\. Convert"):
                read(path)
        with Image.open(path) as picture, pytest.raises(ImageError, match="is an EPS that is not loaded"):
            to_pil(picture)

    @pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "SGI", "DDS", "ICNS"])
    def test_other_formats_are_not_opened(self, tmp_path, kind):
        suffix = next(suffix for suffix, name in Image.registered_extensions().items() if name == kind)
        Image.new("RGB", (32, 32)).save(tmp_path / f"a{suffix}", kind)
        with pytest.raises(ImageError, match=rf"a\{suffix}' is of a format that tadp does not open, {kind}"):
            to_pil(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_suffix_that_counts_as_an_image_can_be_read(self, tmp_path, suffix):
        Image.new("L" if suffix == ".pgm" else "RGB", (13, 9)).save(tmp_path / f"a{suffix.upper()}")
        assert list_images(tmp_path) == [tmp_path / f"a{suffix.upper()}"]
        assert to_pil(tmp_path / f"a{suffix.upper()}").size == (13, 9)

    def test_labels_have_suffixes_of_images(self):
        assert set(LABEL_SUFFIXES) < set(SUFFIXES)

    @pytest.mark.parametrize("is_listed", [True, False])
    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
    def test_a_heic_names_its_plug_in_and_is_read_with_it(self, tmp_path, monkeypatch, brand, is_listed):
        path = tmp_path / "IMG_0001.HEIC"
        path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(64))
        monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
        with pytest.raises(ImageError, match=r"HEIC' is a HEIC image, which needs a plug-in: pip install pillow-heif"):
            to_pil(path)
        with pytest.raises(ImageError, match="holds no images"):
            list_images(tmp_path)

        class Plugin(ImageFile.ImageFile):
            """Opens any HEIC as a white picture, as pillow-heif registers it."""

            format = "HEIF"

            def _open(self) -> None:
                self._size, self._mode, self.tile = (13, 9), "RGB", []

            def load(self):
                self.im = Image.new("RGB", self.size, "white").im
                return Image.Image.load(self)

        plugin = ModuleType("pillow_heif")
        registered: list[bool] = []

        def register() -> None:
            registered.append(True)
            Image.OPEN["HEIF"] = (Plugin, lambda prefix: prefix[4:8] == b"ftyp")

        monkeypatch.setattr(plugin, "register_heif_opener", register, raising=False)
        monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
        monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
        Image.new("RGB", (13, 9)).save(tmp_path / "a.png")
        to_pil(tmp_path / "a.png")
        assert not registered  # nothing of Pillow is changed until there is a HEIC
        if is_listed:
            assert list_images(tmp_path) == [path, tmp_path / "a.png"]
        assert to_pil(path).getpixel((0, 0)) == (255, 255, 255)
        assert registered == [True]


class TestPipes:
    @pytest.mark.parametrize("read", [to_pil, to_tensor, read_stored, orientation_of])
    def test_a_pipe_is_refused_rather_than_waited_for(self, tmp_path, read):
        os.mkfifo(tmp_path / "cat.png")
        with pytest.raises(ImageError, match=r"cat.png'? is a pipe or device, not a file"):
            read(tmp_path / "cat.png")

    def test_a_device_is_refused(self):
        with pytest.raises(ImageError, match="'/dev/zero' is a pipe or device"):
            to_pil("/dev/zero")


def print_growth(name: str, folder: Path) -> None:
    """Print the memory in kB that reading a.png takes beyond reading small.png."""
    read: Any = {"to_pil": to_pil, "to_tensor": to_tensor, "Crops": Crops, "read_stored": read_stored}[name]
    read(folder / "small.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(folder / "a.png")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


class TestMemory:
    @pytest.mark.parametrize(
        ("read", "mode"), [("to_pil", "RGBA"), ("to_tensor", "RGBA"), ("Crops", "P"), ("read_stored", "P")]
    )
    def test_a_large_picture_costs_a_small_multiple_of_its_pixels(self, tmp_path, mode, read):
        side = 3000
        Image.new(mode, (side, side)).save(tmp_path / "a.png")
        Image.new(mode, (16, 16)).save(tmp_path / "small.png")
        done = run_function(print_growth, read, tmp_path)
        # bytes per pixel: a float32 tensor has 12 of them, and two more are memory that the fork copies
        assert int(done.stdout) * 1024 / side**2 < 26, done.stderr

    def test_parts_give_the_same_numbers_as_the_whole(self, monkeypatch):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (40, 31, channels), dtype=np.uint8) for channels in (1, 3, 4)]
        images += [rng.integers(0, 65536, (40, 31, 4), dtype=np.uint16), images[1][None]]
        pictures = [Image.fromarray(images[1]).convert(mode) for mode in ("P", "CMYK", "YCbCr", "LA", "1")]
        whole = [(to_tensor(image), to_pil(image)) for image in (*images, *pictures)]
        for module in (image_files, sys.modules["tadp.images.reading"]):
            monkeypatch.setattr(module, "BAND_PIXELS", 100)
        for image, (tensor, picture) in zip((*images, *pictures), whole, strict=True):
            assert to_tensor(image).equal(tensor)
            np.testing.assert_array_equal(np.asarray(to_pil(image)), np.asarray(picture))
            levels = (tensor[0] * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(np.asarray(picture), levels)


@pytest.mark.parametrize(
    "error", [OSError("out of memory error when reading image file"), OSError(errno.ENOMEM, "Cannot allocate memory")]
)
def test_too_little_memory_is_not_called_a_damaged_file(error, tmp_path, monkeypatch):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")

    def fails(*_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    with pytest.raises(MemoryError, match=r"a\.png' needs more memory than there is"):
        to_tensor(tmp_path / "a.png")
