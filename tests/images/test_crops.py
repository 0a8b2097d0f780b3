"""Parts of an image: the same numbers as in the whole image, without converting the whole image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tadp.images.crops
from tadp.errors import ImageError
from tadp.images import to_tensor
from tadp.images.crops import Crops

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
KINDS = {
    "uint8": COLOURS,
    "batch of one": COLOURS[None],
    "grey": COLOURS[..., 0],
    "RGBA": RNG.integers(0, 256, (40, 56, 4), dtype=np.uint8),
    "uint16": RNG.integers(0, 65536, (40, 56, 3), dtype=np.uint16),
    "float": RNG.random((40, 56, 3), dtype=np.float32),
    "PIL": Image.fromarray(COLOURS),
    "palette": Image.fromarray(COLOURS).convert("P"),
    "uint8 tensor": torch.from_numpy(COLOURS).permute(2, 0, 1),
    "uint16 tensor": torch.from_numpy(RNG.integers(0, 65536, (3, 40, 56), dtype=np.uint16)),
    "float tensor": torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0)),
    "half tensor": torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0)).half(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_a_part_of_the_whole_bit_for_bit(kind):
    whole, crops = to_tensor(KINDS[kind]), Crops(KINDS[kind])
    assert crops.size == (40, 56)
    assert torch.equal(crops.cut(0, 0, 40, 56), whole)
    part = crops.cut(8, 16, 24, 32)
    assert part.dtype == whole.dtype
    assert torch.equal(part, whole[:, :, 8:32, 16:48])
    over = crops.cut(39, 32, 16, 32)  # one row of the image, and columns beyond its edge
    assert torch.equal(over, F.pad(whole, (0, 8, 0, 15), mode="replicate")[:, :, 39:55, 32:64])


def test_files_are_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(COLOURS).save(tmp_path / "turned.png", exif=exif)
    for path in (tmp_path / "turned.png", str(tmp_path / "turned.png")):
        crops = Crops(path)
        assert crops.size == (56, 40)
        assert torch.equal(crops.cut(0, 8, 56, 32), to_tensor(path)[..., 8:])


def test_only_parts_become_floats(monkeypatch):
    shapes = []
    pixels = tadp.images.crops.array_pixels
    monkeypatch.setattr(
        tadp.images.crops, "array_pixels", lambda array, name: shapes.append(array.shape) or pixels(array, name)
    )
    crops = Crops(COLOURS)
    assert np.shares_memory(crops._pixels, COLOURS)
    crops.cut(8, 8, 16, 24)
    assert shapes == [(16, 24, 3)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.uint8), r"expected one image; got a batch of 2"),
        (np.zeros((3, 16, 16), np.uint8), r"The channels of an array must come last"),
        (np.zeros((4, 16, 3), np.uint8), r"both sides must be at least 8"),
        (np.zeros((16, 16, 3), np.int64), r"dtype int64"),
        (np.full((16, 16, 3), 7.0), r"float values from 7 to 7, not in \[0, 1\]"),
        (torch.zeros(16, 16, 3), r"channels of a tensor must come first"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), r"dtype torch.int64"),
        ("nowhere.png", r"no such file: 'nowhere\.png'"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ImageError, match=message):
        Crops(image)


def test_the_limit_of_pixels_can_be_lifted():
    with pytest.raises(ImageError, match=r"0\.00224 megapixels; the limit is 0\.002"):
        Crops(COLOURS, max_pixels=2000)
    assert Crops(COLOURS, max_pixels=None).size == (40, 56)


def test_what_is_none_of_the_kinds_is_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"must be a path, PIL image, NumPy array or tensor; got int"):
        Crops(5)
