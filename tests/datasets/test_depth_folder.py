"""Depth of one's own, in any of the usual files and units."""

import sys

import numpy as np
import pytest
import trees
from PIL import Image

from tadp.datasets import DepthFolder
from tadp.datasets.readers.depth_folder import read_depth_values
from tadp.errors import DatasetError, ImageError, MissingDataError, MissingExtraError

HEIGHT, WIDTH = trees.SIZE
DEPTH_M = np.linspace(0.5, 9.5, HEIGHT * WIDTH, dtype=np.float32).reshape(trees.SIZE)
DEPTH_M[0, :3] = 0


@pytest.fixture
def own(tmp_path):
    trees.write_image(tmp_path / "rgb/a.jpg")
    (tmp_path / "depth").mkdir()
    return tmp_path


def open_own(root, **options) -> DepthFolder:
    return DepthFolder(root / "rgb", root / "depth", **options)


def write_mm(root, values=None, name="a.png") -> None:
    values = DEPTH_M * 1000 if values is None else values
    Image.fromarray(np.asarray(values).round().astype(np.uint16)).save(root / "depth" / name)


def test_pictures_are_millimetres_and_floats_are_metres(own):
    write_mm(own)
    data = open_own(own)
    assert data.tasks == ("depth",)
    assert np.abs(data[0].depth_m - DEPTH_M).max() < 6e-4
    (own / "depth/a.png").unlink()
    np.save(own / "depth/a.npy", DEPTH_M.astype(np.float64)[..., None])
    assert np.array_equal(open_own(own)[0].depth_m, DEPTH_M)
    (own / "depth/a.npy").unlink()
    Image.fromarray(DEPTH_M).save(own / "depth/a.tiff")
    assert np.array_equal(open_own(own)[0].depth_m, DEPTH_M)


def test_a_scale_is_the_metres_of_one_unit(own):
    write_mm(own, DEPTH_M * 5000)  # as in TUM RGB-D
    assert np.abs(open_own(own, scale=1 / 5000)[0].depth_m - DEPTH_M).max() < 2e-4


def test_unknown_depth_becomes_0(own):
    values = (DEPTH_M * 1000).round()
    values[1] = 65535
    write_mm(own, values)
    depth_m = open_own(own, invalid=65535)[0].depth_m
    assert (depth_m[1] == 0).all()
    assert (depth_m[2:] > 0).all()
    (own / "depth/a.png").unlink()
    floats = DEPTH_M.copy()
    floats[1], floats[2], floats[3] = np.nan, np.inf, -1
    np.save(own / "depth/a.npy", floats)
    assert (open_own(own, invalid=-1)[0].depth_m[1:4] == 0).all()
    with pytest.raises(DatasetError, match=r"a.npy has negative depth, such as -1.*pass invalid=-1.0"):
        open_own(own)[0]


def test_a_median_of_another_unit_is_refused_and_reported(own):
    np.save(own / "depth/a.npy", DEPTH_M * 1000)
    with pytest.raises(DatasetError, match=r"a.npy: the median depth is 5\d\d\d m, if one unit is 1 m.* Pass scale=…"):
        open_own(own)[0]
    with pytest.warns(UserWarning, match=r"the median depth is 5\d\d\d m.*check `scale`"):
        open_own(own, scale=1.0)[0]
    (own / "depth/a.npy").unlink()
    write_mm(own, DEPTH_M)
    with pytest.raises(DatasetError, match=r"a.png: the median depth is 0.005 m, if one unit is 0.001 m"):
        open_own(own)[0]


def test_an_image_without_known_depth_is_told_of(own):
    write_mm(own, np.zeros(trees.SIZE))
    with pytest.warns(UserWarning, match=r"a.png has no known depth"):
        assert not open_own(own)[0].depth_m.any()


def test_files_that_are_no_depth_are_refused(own):
    for values, message in (
        (np.full((HEIGHT, WIDTH, 3), 1.0), r"must hold one number per pixel, \(H, W\); got float64 \(24, 36, 3\)"),
        (np.full((HEIGHT, WIDTH), "a"), "must hold one number per pixel"),
        (np.full((HEIGHT, WIDTH), True), "must hold one number per pixel"),
        (np.ones((12, 18)), "a.npy is 12x18, and the image 'a' is 24x36"),
    ):
        np.save(own / "depth/a.npy", values)
        with pytest.raises(DatasetError, match=message):
            open_own(own)[0]
    np.save(own / "depth/a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a.npy is not a NumPy array of numbers"):
        open_own(own)[0]
    (own / "depth/a.npy").unlink()
    Image.fromarray(np.full(trees.SIZE, 90, np.uint8)).save(own / "depth/a.png")
    with pytest.raises(DatasetError, match=r"a.png is a picture of mode L; depth must have 16 bits or floats"):
        open_own(own)[0]


def test_a_missing_depth_file_is_named(own):
    with pytest.raises(MissingDataError, match=r"depth/a.npy is not there|a.png for a.jpg"):
        open_own(own)
    with pytest.raises(ValueError, match="scale must be above 0"):
        open_own(own, scale=0.0)


def test_depth_next_to_images_has_a_suffix(tmp_path):
    trees.write_image(tmp_path / "seq/0001.png")
    Image.fromarray((DEPTH_M * 1000).astype(np.uint16)).save(tmp_path / "seq/0001_depth.png")
    data = DepthFolder(tmp_path, tmp_path, depth_suffix="_depth")
    assert data.image_ids == ["seq/0001"]
    assert data[0].depth_m.max() > 9


def test_exr_needs_its_package(own, monkeypatch):
    (own / "depth/a.exr").write_bytes(b"v/1\x01")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match="pip install OpenEXR"):
        open_own(own)[0]


@pytest.mark.parametrize("channel", ["Z", "Y", "RGB"])
def test_exr_is_read_in_metres(own, channel):
    exr = pytest.importorskip("OpenEXR")
    pixels = np.repeat(DEPTH_M[..., None], 3, axis=2) if channel == "RGB" else DEPTH_M
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with exr.File(header, {channel: pixels}) as file:
        file.write(str(own / "depth/a.exr"))
    assert np.array_equal(open_own(own)[0].depth_m, DEPTH_M)
    trees.cut_short(own / "depth/a.exr")
    with pytest.raises(ImageError, match=r"a.exr cannot be read as EXR"):
        open_own(own)[0]


def test_an_exr_with_colours_is_only_read_if_it_has_depth_too(own):
    exr = pytest.importorskip("OpenEXR")
    depth = np.full(trees.SIZE, 2.5, np.float32)
    colours = np.stack([depth * 0 + 0.5, depth, depth], axis=-1)
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, {"RGB": colours}).write(str(own / "depth/a.exr"))
    with pytest.raises(DatasetError, match=r"a.exr is a colour picture; depth must be in the channel Z, Y or R"):
        read_depth_values(own / "depth/a.exr")
    parts = [exr.Part(dict(header), {"RGB": colours}, "colour"), exr.Part(dict(header), {"Z": depth}, "depth")]
    for file in (
        exr.File(header, {"RGB": colours, "Z": depth.astype(np.float16)}),
        exr.File(parts),
        exr.File(header, {"RGBA": np.stack([depth] * 4, axis=-1)}),
    ):
        file.write(str(own / "depth/a.exr"))
        assert np.array_equal(read_depth_values(own / "depth/a.exr"), depth)
