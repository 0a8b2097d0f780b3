import math
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from tadp.datasets import MaskFolder
from tadp.errors import ImageError
from tadp.images import MAX_PIXELS, crop_to_cells, list_images, pad_to_multiple, read_image, to_pil, to_tensor

ORIENTATION = 0x0112  # the EXIF tag
KINDS = "(?i)path.*PIL.*numpy.*tensor"  # matches our message, and the type checker's if that comes first


@pytest.fixture
def levels() -> np.ndarray:
    """A 9x12 picture of noise."""
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def png_header(path: Path, *, height: int, width: int) -> Path:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def colour(image) -> list[float]:
    """The colour of a picture that has only one."""
    pixels = to_tensor(image)
    assert (pixels - pixels[..., :1, :1]).abs().max() < 0.01  # lossy codecs ripple
    return pixels[0, :, 0, 0].tolist()


class TestKinds:
    def test_a_path_a_string_a_picture_and_an_array_give_the_same_tensor(self, levels, tmp_path):
        Image.fromarray(levels).save(tmp_path / "a.png")
        expected = levels.transpose(2, 0, 1)[None].astype(np.float32) / 255
        for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(levels), levels):
            tensor = to_tensor(image)
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
            np.testing.assert_array_equal(tensor.numpy(), expected)

    def test_a_list_mixes_kinds_and_keeps_its_order(self, levels, tmp_path):
        Image.fromarray(levels).save(tmp_path / "a.png")
        tensor = to_tensor([tmp_path / "a.png", 255 - levels, torch.full((1, 3, 9, 12), 0.25)])
        assert tensor.shape == (3, 3, 9, 12)
        torch.testing.assert_close(tensor[0] + tensor[1], torch.ones(3, 9, 12))
        assert (tensor[2] == 0.25).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_a_float_batch_comes_back_as_the_same_object(self, dtype):
        images = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert to_tensor(images) is images

    def test_a_single_float_tensor_keeps_its_gradient(self):
        image = torch.full((3, 9, 12), 0.5, requires_grad=True)
        to_tensor(image).sum().backward()
        assert image.grad is not None
        assert torch.equal(image.grad, torch.ones(3, 9, 12))

    def test_integer_tensors_are_scaled_by_their_white_level(self):
        assert (to_tensor(torch.full((3, 8, 8), 51, dtype=torch.uint8)) == 0.2).all()
        assert (to_tensor(torch.full((2, 3, 8, 8), 13107, dtype=torch.uint16)) == 0.2).all()

    def test_an_array_may_be_a_batch(self, levels):
        batch = np.stack([levels, 255 - levels])
        assert torch.equal(to_tensor(batch), to_tensor([levels, 255 - levels]))

    @pytest.mark.parametrize(
        "image",
        [
            pytest.param(np.full((8, 9), 51, np.uint8), id="grey"),
            pytest.param(np.full((8, 9, 1), 51, np.uint8), id="one channel"),
            pytest.param(np.full((8, 9), 13107, np.uint16), id="16 bits"),
            pytest.param(np.full((8, 9), 13107, ">u2"), id="big-endian"),
            pytest.param(np.full((8, 9), 0.2, np.float64), id="float64"),
            pytest.param(np.full((8, 9, 3), 51, np.uint8)[::-1, :, ::-1], id="reversed strides"),
            pytest.param(np.broadcast_to(np.uint8(51), (8, 9, 3)), id="read-only"),
        ],
    )
    def test_arrays_of_every_layout_and_depth_reach_the_unit_range(self, image):
        assert colour(image) == pytest.approx([0.2] * 3)

    def test_the_caller_keeps_an_unchanged_array(self):
        image = np.full((8, 9, 3), 0.5, np.float32)
        to_tensor(image).zero_()
        assert (image == 0.5).all()

    @pytest.mark.parametrize("image", [b"raw", None, 3, {"a": 1}])
    def test_other_kinds_raise_type_error(self, image):
        with pytest.raises(TypeError, match=KINDS):
            to_tensor(image)

    def test_a_wrong_kind_in_a_list_raises_type_error(self):
        with pytest.raises(TypeError, match=KINDS):
            to_tensor([np.zeros((8, 8), np.uint8), 3])  # type: ignore[list-item]

    def test_an_empty_list_is_refused(self):
        with pytest.raises(ImageError, match="at least one image"):
            to_tensor([])

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_an_empty_batch_is_refused(self, dtype):
        with pytest.raises(ImageError, match="no images"):
            to_tensor(torch.zeros(0, 3, 8, 8, dtype=dtype))

    def test_a_list_of_mixed_sizes_names_both_and_the_way_out(self):
        images = [np.zeros((9, 12), np.uint8), np.zeros((9, 12), np.uint8), np.zeros((10, 8), np.uint8)]
        with pytest.raises(ImageError, match=r"image 0 is 9x12 and image 2 is 10x8 .*Resize"):
            to_tensor(images)

    def test_a_batch_inside_a_list_is_refused(self):
        with pytest.raises(ImageError, match="image 1 is a batch of 2"):
            to_tensor([torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8)])


class TestToPil:
    def test_every_level_survives_the_way_through_floats(self):
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        picture = to_pil(ramp)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), np.repeat(ramp[..., None], 3, axis=-1))

    def test_deeper_values_are_rounded_and_overshoot_is_clipped(self):
        image = torch.tensor([0.5, 1.005, -0.005]).view(3, 1, 1).expand(3, 8, 8)
        assert to_pil(image).getpixel((0, 0)) == (128, 255, 0)

    def test_a_batch_of_one_is_one_image_and_of_two_is_not(self):
        assert to_pil(torch.zeros(1, 3, 8, 9)).size == (9, 8)
        with pytest.raises(ImageError, match="batch of 2"):
            to_pil(torch.zeros(2, 3, 8, 9))


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("1", 1, [1, 1, 1]),
            ("L", 51, [0.2, 0.2, 0.2]),
            ("RGB", (255, 51, 0), [1, 0.2, 0]),
            ("RGBX", (255, 51, 0, 7), [1, 0.2, 0]),
            ("CMYK", (0, 255, 255, 0), [1, 0, 0]),
            ("HSV", (85, 255, 255), [0, 1, 0]),
            ("YCbCr", (76, 85, 255), [1, 0, 0]),
            ("LAB", (255, 128, 128), [1, 1, 1]),
            ("I;16", 13107, [0.2, 0.2, 0.2]),
            ("I;16B", 13107, [0.2, 0.2, 0.2]),
            ("F", 0.2, [0.2, 0.2, 0.2]),
            ("RGBA", (255, 0, 0, 51), [1, 0.8, 0.8]),
            ("LA", (0, 51), [0.8, 0.8, 0.8]),
            ("PA", (0, 51), [0.8, 0.8, 0.8]),
        ],
    )
    def test_every_mode_becomes_rgb_on_white(self, mode, value, expected):
        image = Image.new(mode, (9, 8), value)
        assert colour(image) == pytest.approx(expected, abs=1.5 / 255)

    def test_alpha_is_composited_on_white(self):
        image = np.zeros((8, 8, 4), np.uint8)
        image[..., :3], image[..., 3] = (200, 100, 0), 51
        expected = [level / 255 * 0.2 + 0.8 for level in (200, 100, 0)]
        assert colour(image) == pytest.approx(expected)
        assert colour(Image.fromarray(image)) == pytest.approx(expected)

    def test_a_transparent_palette_entry_turns_white(self, tmp_path):
        image = Image.new("P", (8, 8), 1)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.paste(0, (0, 0, 8, 4))
        image.save(tmp_path / "a.png", transparency=1)
        pixels = to_tensor(tmp_path / "a.png")[0]
        assert pixels[:, 0, 0].tolist() == [1, 0, 0]
        assert pixels[:, 7, 0].tolist() == [1, 1, 1]

    def test_a_transparent_colour_of_an_rgb_png_turns_white(self, tmp_path):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "a.png", transparency=(9, 9, 9))
        assert colour(tmp_path / "a.png") == [1, 1, 1]

    @pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
    def test_16_bit_greys_keep_their_depth(self, tmp_path, suffix):
        values = np.random.default_rng(0).integers(0, 65536, (9, 12), dtype=np.uint16)
        path = tmp_path / f"a.{suffix}"
        if suffix == "pgm":
            path.write_bytes(b"P5 12 9 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path)
        expected = np.repeat((values / 65535)[None, None], 3, axis=1)
        np.testing.assert_allclose(to_tensor(path).numpy(), expected, atol=1e-7)

    def test_32_bit_integers_are_refused_by_name(self, tmp_path):
        Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "deep.tif")
        with pytest.raises(ImageError, match=r"deep.tif' has dtype int32; .*white level"):
            to_tensor(tmp_path / "deep.tif")

    def test_a_float_file_must_lie_in_the_unit_range_too(self, tmp_path):
        Image.fromarray(np.full((8, 8), 200, np.float32)).save(tmp_path / "deep.tif")
        with pytest.raises(ImageError, match=r"deep.tif' has float values from 200 to 200.* / 255"):
            to_tensor(tmp_path / "deep.tif")


class TestOrientation:
    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_files_come_out_upright(self, tmp_path, orientation, depth):
        upright = np.arange(9 * 12, dtype=depth).reshape(9, 12)
        # EXIF 2.3, 4.6.4: where the stored row 0 and column 0 lie in the upright picture
        stored = {
            1: upright,
            2: upright[:, ::-1],  # row 0 top, column 0 right
            3: upright[::-1, ::-1],  # bottom, right
            4: upright[::-1],  # bottom, left
            5: upright.T,  # left, top
            6: upright[:, ::-1].T,  # right, top
            7: upright[::-1, ::-1].T,  # right, bottom
            8: upright[::-1].T,  # left, bottom
        }[orientation]
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
        white = np.iinfo(depth).max
        np.testing.assert_allclose(to_tensor(tmp_path / "a.png")[0, 0].numpy(), upright / white, atol=1e-7)
        with Image.open(tmp_path / "a.png") as picture:
            assert to_pil(picture).size == (12, 9)
            assert picture.getexif()[ORIENTATION] == orientation


class TestFrames:
    @pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
    def test_a_file_of_several_frames_is_refused_with_the_way_to_pick_one(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=rf"^'.*a.{suffix}' has several frames .*seek"):
            to_tensor(path)
        with Image.open(path) as picture:
            picture.seek(1)
            assert colour(picture) == pytest.approx([0, 0, 1], abs=0.01)

    def test_the_previews_behind_a_camera_jpeg_are_not_frames(self, tmp_path):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
        frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
        assert colour(tmp_path / "a.jpg") == [1, 1, 1]


class TestBadFiles:
    def test_a_missing_file_is_named(self):
        with pytest.raises(ImageError, match=r"no such file: 'https://a.org/cat\.jpg'. Download it first"):
            to_tensor("https://a.org/cat.jpg")
        with pytest.raises(ImageError, match=r"no such file: 'nowhere/cat\.jpg'"):
            to_tensor("nowhere/cat.jpg")

    def test_a_folder_points_to_list_images(self, tmp_path):
        with pytest.raises(ImageError, match=r"is a folder.*list_images"):
            to_tensor(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"just text\n" * 99])
    def test_what_is_no_image_is_named(self, tmp_path, content):
        (tmp_path / "cat.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=r"cat.jpg' is not an image that Pillow can read"):
            to_tensor(tmp_path / "cat.jpg")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
    def test_a_truncated_file_is_named(self, tmp_path, suffix):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = tmp_path / f"cat.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=rf"cat\.{suffix}' is (damaged or cut short|not an image)"):
            to_tensor(path)

    def test_a_truncated_picture_opened_by_the_caller_is_refused_too(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "cat.jpg")
        (tmp_path / "cat.jpg").write_bytes((tmp_path / "cat.jpg").read_bytes()[:2000])
        with (
            Image.open(tmp_path / "cat.jpg") as picture,
            pytest.raises(ImageError, match="image 1 is damaged or cut short"),
        ):
            to_tensor([noise, picture])

    def test_a_file_without_read_permission_says_how_to_get_it(self, tmp_path, monkeypatch):
        def refuse(path, **_):  # chmod does not stop root, and in containers root runs the tests
            raise PermissionError(13, "Permission denied", str(path))

        (tmp_path / "cat.jpg").touch()
        monkeypatch.setattr(Image, "open", refuse)
        with pytest.raises(ImageError, match=r"no permission to read '.*cat\.jpg'.*chmod"):
            to_tensor(tmp_path / "cat.jpg")

    @pytest.mark.parametrize("suffix", ["png", "webp"])
    def test_exif_that_cannot_be_parsed_is_refused_rather_than_read_sideways(self, levels, tmp_path, suffix):
        path = tmp_path / f"cat.{suffix}"
        Image.fromarray(levels).save(path, exif=b"Exif\0\0in no byte order")
        with pytest.raises(ImageError, match=rf"cat\.{suffix}' is damaged or cut short \(not a TIFF file"):
            to_tensor(path)

    @pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "bmp", "gif", "ppm"])
    def test_random_damage_raises_nothing_but_image_error(self, levels, tmp_path, suffix):
        rng = np.random.default_rng(0)
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(levels).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            with suppress(ImageError):
                to_tensor(path)


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "larger"), [((1, 1), "8x8"), ((7, 9), "8x11"), ((100, 4), "200x8"), ((8, 7), "10x8")]
    )
    def test_small_images_are_refused_with_the_size_to_reach(self, tmp_path, size, larger):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "dot.png")
        with pytest.raises(
            ImageError, match=rf"^'[^']*dot.png' is {size[0]}x{size[1]} .*at least 8. Resize it to {larger} "
        ):
            to_tensor(tmp_path / "dot.png")
        with pytest.raises(ImageError, match=f"Resize it to {larger}"):
            to_tensor(torch.zeros(3, *size))

    @pytest.mark.parametrize(
        "image", [np.zeros((0, 0, 3), np.uint8), Image.new("RGB", (0, 0)), torch.zeros(2, 3, 0, 0)]
    )
    def test_images_without_pixels_are_refused(self, image):
        with pytest.raises(ImageError, match="image is empty: 0x0"):
            to_tensor(image)

    def test_8_pixels_are_enough(self):
        assert to_tensor(np.zeros((8, 8), np.uint8)).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize(("height", "width"), [(20000, 20000), (9000, 12000)])
    @pytest.mark.parametrize("action", ["error", "ignore"])
    def test_giants_are_refused_before_they_are_decoded(self, tmp_path, height, width, action):
        path = png_header(tmp_path / "map.png", height=height, width=width)
        percent = math.floor(100 * math.sqrt(MAX_PIXELS / (height * width)))
        megapixels = height * width // 10**6
        with warnings.catch_warnings():
            warnings.simplefilter(action, Image.DecompressionBombWarning)
            with pytest.raises(ImageError, match=rf"map.png' has {megapixels} mega.*limit is 89\.48.*{percent} %"):
                to_tensor(path)

    def test_the_limit_holds_for_every_kind_and_can_be_lifted(self, tmp_path):
        Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
        limits = Image.MAX_IMAGE_PIXELS
        for image in (
            tmp_path / "a.png",
            Image.new("RGB", (20, 30)),
            np.zeros((30, 20)),
            torch.zeros(3, 30, 20),
        ):
            with pytest.raises(ImageError, match="raise max_pixels"):
                to_tensor(image, max_pixels=599)
            with pytest.raises(ImageError, match="raise max_pixels"):
                to_pil(image, max_pixels=599)
            assert to_tensor(image, max_pixels=600).shape == (1, 3, 30, 20)
            assert to_tensor(image, max_pixels=None).shape == (1, 3, 30, 20)
        assert limits == Image.MAX_IMAGE_PIXELS

    def test_pillows_own_limit_remains_and_is_named(self, tmp_path, monkeypatch):
        with pytest.raises(ImageError, match=r"400 megapixels, more than Pillow opens.*MAX_IMAGE_PIXELS"):
            to_tensor(png_header(tmp_path / "map.png", height=20000, width=20000), max_pixels=None)
        Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        with pytest.warns(Image.DecompressionBombWarning):
            assert to_tensor(tmp_path / "a.png", max_pixels=None).shape == (1, 3, 30, 20)


class TestValues:
    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            (0, 255, r"from 0 to 255, .* / 255\."),
            (3, 65000, r"from 3 to 6\.5e\+04, .* / 65535\."),
            (0, 1e6, r"/ 1e\+06"),
            (-1, 1, r"from -1 to 1, .*\(image \+ 1\) / 2"),
            (-2.1, 2.6, "normalisation"),
            (-0.1, 1.1, r"clip\(0, 1\)"),
        ],
    )
    @pytest.mark.parametrize("as_image", [lambda array: array, lambda array: torch.from_numpy(array).movedim(-1, 0)])
    def test_floats_outside_the_unit_range_name_theirs_and_the_way_back(self, low, high, message, as_image):
        array = np.linspace(low, high, 8 * 9 * 3, dtype=np.float32).reshape(8, 9, 3)
        with pytest.raises(ImageError, match=message):
            to_tensor(as_image(array))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_value_that_is_not_finite_is_enough(self, value):
        array = np.full((8, 9, 3), 0.5, np.float32)
        array[3, 4, 1] = value
        for image in (array, torch.from_numpy(array).movedim(-1, 0)):
            with pytest.raises(ImageError, match="NaN or infinite"):
                to_tensor(image)

    def test_the_rounding_of_a_resize_passes_as_it_is(self):
        image = torch.full((1, 3, 8, 8), 1.0078125, dtype=torch.bfloat16)  # the next number after 1
        assert to_tensor(image) is image

    @pytest.mark.parametrize("dtype", ["bool", "int64", "int8", "uint32", "complex64", "object"])
    def test_other_dtypes_are_refused_by_name(self, dtype):
        array = np.ones((8, 8, 3), dtype)
        with pytest.raises(ImageError, match=f"dtype {dtype}; .*white level"):
            to_tensor(array)
        if dtype != "object":
            with pytest.raises(ImageError, match=f"dtype torch.{dtype}"):
                to_tensor(torch.from_numpy(array).movedim(-1, 0))


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((3, 20, 30), r"image\.transpose\(1, 2, 0\)"),
            ((2, 3, 20, 30), r"image\.transpose\(0, 2, 3, 1\)"),
            ((20, 30, 2), r"shape \(20, 30, 2\).*1, 3 or 4 channels"),
            ((16, 20, 30), "1, 3 or 4 channels"),
            ((20,), "1, 3 or 4 channels"),
            ((1, 2, 20, 30, 3), "1, 3 or 4 channels"),
        ],
    )
    def test_arrays_of_other_shapes_are_refused(self, shape, message):
        with pytest.raises(ImageError, match=message):
            to_tensor(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((20, 30, 3), r"image\.permute\(2, 0, 1\)"),
            ((2, 20, 30, 3), r"image\.permute\(0, 3, 1, 2\)"),
            ((1, 20, 30), r"image\.expand\(3, -1, -1\)"),
            ((2, 1, 20, 30), r"image\.expand\(-1, 3, -1, -1\)"),
            ((4, 20, 30), r"shape \(4, 20, 30\)\. A tensor must be \(3, H, W\)"),
            ((20, 30), r"A tensor must be \(3, H, W\)"),
        ],
    )
    def test_tensors_of_other_shapes_are_refused(self, shape, message):
        with pytest.raises(ImageError, match=message):
            to_tensor(torch.zeros(shape))


class TestPadding:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 64), (65, 100), (64, 130)])
    def test_the_edge_is_replicated_right_and_below(self, height, width, dtype):
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
        padded = pad_to_multiple(images, 64)
        assert padded.shape[-2] == math.ceil(height / 64) * 64
        assert padded.shape[-1] == math.ceil(width / 64) * 64
        rows = torch.arange(padded.shape[-2]).clamp(max=height - 1)
        columns = torch.arange(padded.shape[-1]).clamp(max=width - 1)
        assert torch.equal(padded, images[:, :, rows][..., columns])

    def test_what_fits_comes_back_as_the_same_object(self):
        images = torch.zeros(1, 3, 64, 128)
        assert pad_to_multiple(images, 64) is images

    def test_gradients_reach_the_edge_once_for_each_copy(self):
        images = torch.zeros(1, 3, 9, 9, requires_grad=True)
        pad_to_multiple(images, 12).sum().backward()
        assert images.grad is not None
        assert images.grad[0, 0, 0, 8] == 4
        assert images.grad[0, 0, 8, 8] == 16

    def test_a_multiple_under_one_is_refused(self):
        with pytest.raises(ValueError, match="multiple must be 1 or more; got 0"):
            pad_to_multiple(torch.zeros(1, 3, 8, 8), 0)

    @pytest.mark.parametrize("reduction", [8, 16, 32, 64])
    def test_cropping_keeps_the_cells_that_see_the_image(self, reduction):
        feature = torch.arange(128 * 192 / reduction**2).view(1, 1, 128 // reduction, 192 // reduction)
        cropped = crop_to_cells(feature, (65, 130), reduction)
        rows = [row for row in range(feature.shape[-2]) if row * reduction < 65]
        columns = [column for column in range(feature.shape[-1]) if column * reduction < 130]
        assert torch.equal(cropped, feature[:, :, rows][..., columns])

    def test_a_map_that_is_too_small_for_the_image_is_refused(self):
        with pytest.raises(ValueError, match=r"65x130 has 9x17 cells at stride 8; the map has 17x9"):
            crop_to_cells(torch.zeros(1, 4, 17, 9), (65, 130), 8)


class TestListImages:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for name in (
            "b.JPG",
            "a.png",
            "notes.txt",
            "deep/er/c.webp",
            ".hidden.png",
            ".cache/d.png",
            "[x].dat",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        return tmp_path

    def test_a_folder_gives_the_images_in_and_below_it_in_sorted_order(self, folder):
        assert list_images(folder) == [folder / "a.png", folder / "b.JPG", folder / "deep/er/c.webp"]

    def test_a_file_stands_for_itself(self, folder):
        assert list_images(str(folder / "[x].dat")) == [folder / "[x].dat"]

    def test_a_pattern_gives_the_images_and_folders_that_match(self, folder):
        assert list_images(f"{folder}/*.[pJ]*") == [folder / "a.png", folder / "b.JPG"]
        assert list_images(f"{folder}/**/*.webp") == [folder / "deep/er/c.webp"]
        assert list_images(f"{folder}/d*") == [folder / "deep/er/c.webp"]

    def test_the_order_given_is_kept_and_nothing_comes_twice(self, folder):
        assert list_images([folder / "deep", folder]) == [
            folder / "deep/er/c.webp",
            folder / "a.png",
            folder / "b.JPG",
        ]

    @pytest.mark.parametrize("name", ["nowhere", "*.bmp"])
    def test_what_leads_nowhere_is_named(self, folder, name):
        with pytest.raises(ImageError, match=r"(nowhere|\*\.bmp)' is not a file or folder, and no file matches it"):
            list_images([folder, folder / name])

    @pytest.mark.parametrize("name", ["folder.png", "*.txt"])
    def test_what_holds_no_image_is_named_with_the_known_suffixes(self, folder, name):
        with pytest.raises(ImageError, match=r"(folder\.png|\*\.txt)' holds no images. .*\.jpeg, \.jpg"):
            list_images(folder / name)


def pictures(folder: Path, levels: np.ndarray) -> None:
    """Pictures that `np.asarray(Image.open(path))` reads in another way than models do."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(levels).save(folder / "turned.png", exif=exif)
    alpha = np.dstack([levels, np.arange(levels[..., 0].size, dtype=np.uint8).reshape(levels.shape[:2])])
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(levels[..., 0].astype(np.uint16) * 257 + 100).save(folder / "deep.png")
    Image.fromarray(levels).quantize(8).save(folder / "palette.png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(levels).save(folder / "profile.png", icc_profile=profile)
    Image.fromarray(levels).convert("CMYK").save(folder / "cmyk.jpg")


def test_every_part_sees_the_picture_that_read_image_reads(levels, tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    pictures(images, levels)
    for path in images.iterdir():
        height, width = read_image(path).shape[:2]
        Image.fromarray(np.zeros((height, width), np.uint8)).save(masks / f"{path.stem}.png")
    data = MaskFolder(images, masks, class_names=["a", "b"])
    assert len(data) == 6
    for sample, path in zip(data, sorted(images.iterdir()), strict=True):
        pixels = read_image(path)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        np.testing.assert_array_equal(sample.image, pixels)
        np.testing.assert_array_equal(np.asarray(to_pil(path)), pixels)
        np.testing.assert_array_equal(to_tensor(path)[0].mul(255).round().permute(1, 2, 0).numpy(), pixels)
    assert read_image(images / "turned.png").shape == (12, 9, 3)
    np.testing.assert_array_equal(read_image(images / "profile.png"), levels)
