"""Converted depth models compute what the released code computes, at every size that it takes."""

from pathlib import Path

import originals
import pytest
import torch
from builders import build_folder, build_unet, build_vae, images
from release_files import Original, convert, depth_model, original_of
from released_depth import released_depth, spread

from tadp.tasks import TADPForDepthEstimation

CAPTION = "a dog and a cat"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> TADPForDepthEstimation:
    """A model whose depth varies over an image, converted from a file and saved."""
    folder: Path = tmp_path_factory.mktemp("converted")
    base = build_folder(folder / "base")
    original = original_of("tadp depth", base)
    model = depth_model(original.model.backbone)
    spread(model.head)
    head = {f"module.{key}": value for key, value in originals.write_depth_head(model.head).items()}
    model, _ = convert(Original(model, original.state | head, original.wrap), base, folder)
    return model


def expected_depth(model: TADPForDepthEstimation, pixels: torch.Tensor) -> torch.Tensor:
    text = model.backbone.encode_text(CAPTION).embeddings
    return released_depth(build_vae(), build_unet(seed=5), model.head.state_dict(), pixels, text)


@pytest.mark.parametrize("size", [(480, 480), (352, 352), (512, 512), (480, 640), (500, 330), (64, 33)])
def test_depth_is_the_released_models_everywhere(size, converted):
    """The released code takes the first three sizes; the others follow the same rule."""
    pixels = images(1, *size)
    with torch.no_grad():
        depth = converted(pixels, CAPTION).depth_m
    assert depth.std() > 0.1
    torch.testing.assert_close(depth, expected_depth(converted, pixels), rtol=0, atol=5e-5)


def test_the_cells_that_hold_only_padding_matter_at_the_edges(converted):
    """Otherwise the test above would prove nothing."""
    pixels = images(1, 480, 480)
    padded = torch.nn.functional.pad(pixels, (0, 32, 0, 32), value=0.5)
    with torch.no_grad():
        difference = (converted(padded, CAPTION).depth_m[:, :480, :480] - converted(pixels, CAPTION).depth_m).abs()
    assert difference[:, :400, :400].max() < 5e-5
    assert difference[:, 470:].max() > 1e-3
    assert difference[:, :, 470:].max() > 1e-3


def test_two_windows_of_an_image_of_nyu_are_averaged(converted):
    pixels = images(1, 480, 640)
    left, right = expected_depth(converted, pixels[..., :480]), expected_depth(converted, pixels[..., 160:])
    total, counts = torch.zeros(480, 640), torch.zeros(480, 640)
    for start, window in ((0, left), (160, right)):
        total[:, start : start + 480] += window[0]
        counts[:, start : start + 480] += 1
    torch.testing.assert_close(converted.predict(pixels, CAPTION).depth_m, total / counts, rtol=0, atol=5e-5)
