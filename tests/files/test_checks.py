"""Argument checks: the values they accept, and their messages."""

import math
import os
import re

import numpy as np
import pytest
import torch

import tadp
from tadp.cleaning import RuleCleaner
from tadp.datasets import Gamma
from tadp.datasets.readers.mask_values import MaskValues
from tadp.drawing import class_picture
from tadp.errors import CaptionError, DatasetError, MissingExtraError, ModifierError, OptionError
from tadp.export import to_program
from tadp.features import FeatureInfo
from tadp.files.checks import (
    check_choice,
    check_counts,
    check_numbers,
    check_present,
    check_whole,
    is_out_of_memory,
    need,
    read_lines,
)
from tadp.heads import DetectionHead, LinearHead
from tadp.images import read_image
from tadp.integrations.pyramid import Pyramid
from tadp.metrics import caption_alignment
from tadp.personalize import RunOptions
from tadp.prompts import oracle


@pytest.mark.parametrize("value", [math.nan, -math.inf, 10**400, -(10**400)])
def test_a_number_that_no_float_can_hold_is_not_finite(value):
    shown = "(nan|-inf|a number of more than 90 digits)"
    with pytest.raises(OptionError, match=rf"lr must be a finite number; got {shown}"):
        check_numbers(lr=value)
    with pytest.raises(OptionError, match=rf"lr must be above 0; got {shown}"):
        RunOptions(lr=value)


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), torch.tensor([3])])
def test_what_python_takes_for_a_whole_number_is_one(value):
    number = check_whole(value, name="steps")
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, torch.tensor([1, 2]), torch.tensor(3.0), np.float64(3)])
def test_anything_else_is_not(value):
    with pytest.raises(TypeError, match=r"^steps must be a whole number; got .* \(\w+\)\.$"):
        check_whole(value, name="steps")


def test_the_message_says_what_is_counted_and_what_else_may_be_passed():
    with pytest.raises(
        TypeError, match=r"^side_px must be a whole number of pixels, or None for any; got 1\.5 \(float\)"
    ):
        check_whole(1.5, name="side_px", unit="pixel", note=", or None for any")
    with pytest.raises(ValueError, match=r"^side_px must be 1 pixel or more, or None for any; got 0\.$"):
        check_whole(0, name="side_px", unit="pixel", note=", or None for any")


def test_a_minimum_may_be_zero_or_none():
    assert check_whole(0, name="seed", minimum=0) == 0
    assert check_whole(-5, name="seed", minimum=None) == -5
    with pytest.raises(ValueError, match="seed must be 0 or more; got -1"):
        check_whole(-1, name="seed", minimum=0)


def test_of_several_counts_the_wrong_one_is_named():
    check_counts(count=1, steps=2)
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        check_counts(count=1, steps=0)


def test_a_choice_may_be_refused_by_an_error_of_its_own():
    check_choice(None, ("eigen", None), name="crop")
    with pytest.raises(ModifierError, match="kind must be one of style, object; got 'mood'"):
        check_choice("mood", ("style", "object"), name="kind", error=ModifierError)


def test_classes_of_images_come_as_lists():
    assert check_present([{"dog"}, ("cat", "dog"), []], ["cat", "dog"]) == [["dog"], ["cat", "dog"], []]
    assert check_present([["cow"]], None) == [["cow"]]


def test_a_package_that_is_not_there_is_named_with_its_command():
    with pytest.raises(MissingExtraError, match=r"this needs no_such, which does not load \(No module .*\): pip"):
        need("no_such.inner", install="pip install no_such")


@pytest.mark.parametrize("value", ["3", None, True, [1.0], 1j])
def test_a_number_of_another_type_is_refused(value):
    with pytest.raises(TypeError, match=rf"lr must be a number; got {re.escape(repr(value))}"):
        check_numbers(lr=value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float32("inf")])
def test_a_number_must_be_finite(value):
    with pytest.raises(OptionError, match=r"lr must be a finite number; got "):
        check_numbers(lr=value)
    check_numbers(allow_nonfinite=True, lr=value)
    check_numbers(lr=np.float64(0.5), steps=3)


def test_lines_are_read_without_white_space_and_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffdog\r\n\n  dining table \n".encode())
    assert read_lines(tmp_path / "list.txt", of="name", error=DatasetError) == ["dog", "dining table"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog\0cat", "with one name per line; it has null characters, or a line of over"),
        (b"dog" * 10_000, "a line of over 10000 characters"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"\n \n", "is empty; it must list one name per line"),
        ("pipe", r"list\.txt cannot be read: .* is a pipe or a device, not a file.* It must be a list with one name"),
        ("folder", r"list\.txt cannot be read: Is a directory"),
        ("missing", r"list\.txt cannot be read: No such file or directory"),
        ("large", "has more than 67108864 bytes"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, message):
    path = tmp_path / "list.txt"
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif content != "missing":
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_lines(path, of="name", error=DatasetError)


def test_errors_that_mean_too_little_memory():
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN, while it prepares a convolution
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(OSError(13, "Permission denied"))


WORDS = {"dog", "cat"}
PIXELS = np.zeros((16, 16, 3), np.uint8)
LATENTS = torch.zeros(1, 4, 8, 8)
CLASS_MAP = torch.zeros(16, 16, dtype=torch.int64)
SETS = {
    "pool_attention": lambda backbone: backbone.with_options(pool_attention=WORDS),
    "image_size of extract": lambda backbone: backbone.extract(LATENTS, "", image_size={64, 32}),
    "image_size of export": lambda backbone: to_program(backbone, image_size={64, 128}),
    "image_size of a head": lambda _: LinearHead(INFO, num_classes=2)(INFO_MAPS, image_size={64, 32}),
    "anchor_sizes": lambda _: DetectionHead(INFO, num_classes=2, anchor_sizes={32.0, 64.0}),
    "aspect_ratios": lambda _: DetectionHead(INFO, num_classes=2, aspect_ratios={0.5, 1.0}),
    "captions of a cleaner": lambda _: RuleCleaner("watercolor")(WORDS),
    "captions of a captioner": lambda _: tadp.CaptionTable().fill({"a": 1, "b": 2}, lambda images: WORDS),
    "captions of alignment": lambda _: caption_alignment(WORDS, [["dog"], ["cat"]]),
    "present of alignment": lambda _: caption_alignment(["a dog", "a cat"], {("dog",), ("cat",)}),
    "present of the oracle": lambda _: oracle({("dog",), ("cat",)}, ["dog", "cat"]),
    "rows": lambda backbone: backbone.encode_text(["a dog", "a cat"]).take({1, 0}),
    "palette": lambda _: MaskValues.of(["dog", "cat"], palette={"#ff0000", "#00ff00"}),
    "range": lambda _: Gamma(gamma={0.8, 1.2}),
    "colors": lambda _: class_picture(PIXELS, CLASS_MAP, ["dog", "cat"], colors={(0, 0, 0), (1, 1, 1)}),
    "levels": lambda backbone: Pyramid(backbone, levels={0, 1}),
    "mean": lambda backbone: Pyramid(backbone, mean={0.1, 0.2, 0.3}, std=(1.0, 1.0, 1.0)),
    "sample_prompts": lambda _: RunOptions(sample_prompts=WORDS),
}
INFO = FeatureInfo(channels=(4, 8), reduction=(8, 16))
INFO_MAPS = (torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_refused_where_the_order_means_something(name, no_type_checker):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    with pytest.raises((TypeError, CaptionError), match=r"\bset\b"):
        SETS[name](backbone)


@pytest.mark.parametrize("size", [(0, 0), (-64, 64), (64.0, 64.0), (64,)])
def test_a_size_that_no_image_has_is_refused(size, no_type_checker):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    with pytest.raises(ValueError, match=r"image_size must be \(height, width\) in pixels; got \("):
        backbone.extract(LATENTS, "", image_size=size)


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_no_image_meets_is_refused(limit, no_type_checker):
    with pytest.raises(OptionError, match="max_pixels must be 1 or more, or None"):
        read_image(PIXELS, max_pixels=limit)


def test_an_image_side_beyond_the_limit_of_pixels_is_refused():
    with pytest.raises(OptionError, match="image_px must be at most 9459; got 1000000"):
        tadp.TADPForObjectDetection(tadp.TADPBackbone.from_pretrained("tadp-tiny"), class_names=["a"], image_px=10**6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"aspect_ratios": ()}, "anchor_sizes must have"), ({"aspect_ratios": (math.nan,)}, "must be a finite number")],
)
def test_anchors_without_a_shape_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionHead(INFO, num_classes=2, **options)


def test_labels_are_a_dictionary(no_type_checker):
    with pytest.raises(TypeError, match=r"labels must be a dictionary, such as \{11: 255\}; got \[1, 2\]"):
        MaskValues.of(["dog", "cat"], labels=[1, 2])
