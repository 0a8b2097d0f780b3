"""Pixels that a transform put out of range are named with the transform, or cut; others are refused."""

import re

import pytest
import torch
from builders import build_backbone, images
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from tadp.errors import ImageError
from tadp.integrations import Pyramid

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = images(2, 64, 64)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(default_text="a dog")


def normalised(pixels):
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def erased(pixels):
    torch.manual_seed(0)
    return torch.stack([RandomErasing(1.0, mode="pixel", device="cpu")(image.clone()) for image in pixels])


def sharp():
    """A checkerboard, at whose edges a bicubic resize overshoots."""
    board = (torch.arange(16)[:, None] // 4 + torch.arange(16) // 4) % 2
    return v2.Resize((64, 64), interpolation=v2.InterpolationMode.BICUBIC)(board.float().expand(1, 3, 16, 16))


TRANSFORMED = {
    "RandomErasing after normalisation": (lambda: erased(normalised(PIXELS)), {"mean": MEAN, "std": STD}),
    "RandomErasing": (lambda: erased(PIXELS), {}),
    "bicubic resizing of floats": (sharp, {}),
    "noise": (lambda: PIXELS + 0.1 * torch.randn(PIXELS.shape, generator=torch.Generator().manual_seed(0)), {}),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", TRANSFORMED)
def test_a_transform_that_overshoots_is_named_and_its_pixels_can_be_cut(kind, backbone):
    make, options = TRANSFORMED[kind]
    pixels = make()
    with pytest.raises(
        ImageError, match=re.escape("Bicubic resizing of floats, noise, and RandomErasing(mode='pixel')")
    ):
        Pyramid(backbone, **options)(pixels)
    kept = pixels.clone()
    maps = Pyramid(backbone, clamp=True, **options)(pixels)
    assert torch.equal(pixels, kept)
    cut = pixels if not options else pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    for level, expected in zip(maps, backbone(cut.clamp(0, 1)).maps, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_images_on_another_scale_are_refused_also_with_clamp(backbone):
    pyramid = Pyramid(backbone, clamp=True)
    for pixels in (PIXELS * 255, normalised(PIXELS) * 2):
        with pytest.raises(ImageError, match=r"must be in \[0, 1\]; they range from .* Pass the mean and std"):
            pyramid(pixels)
    for broken in (float("nan"), float("inf")):
        pixels = PIXELS.clone()
        pixels[0, 0, 0, 0] = broken
        for options in ({"clamp": True}, {"mean": MEAN, "std": STD}):
            with pytest.raises(ImageError, match=r"NaN or infinite values. Fix their source"):
                Pyramid(backbone, **options)(pixels)
    with pytest.raises(ImageError, match=r"batch with no images"):
        pyramid(PIXELS[:0])


@torch.no_grad()
def test_the_range_is_checked_with_one_wait_for_the_gpu(backbone, monkeypatch):
    """`tolist` and `item` wait for a GPU; a call checks once in the pyramid and once in the backbone."""
    calls = []
    for name in ("tolist", "item"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, method=method: calls.append(tuple(self.shape)) or method(self)
        )
    plain, undone = Pyramid(backbone), Pyramid(backbone, mean=MEAN, std=STD)
    plain(PIXELS)
    baseline = calls.count((2,))
    calls.clear()
    undone(normalised(PIXELS))
    assert (baseline, calls.count((2,))) == (1, 2)
