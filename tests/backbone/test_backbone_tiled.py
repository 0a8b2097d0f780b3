"""Features of large images from tiles: compared with tiles blended by hand, and with a single pass where both agree."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import build_backbone, embeddings, images, relative_error
from builders_families import build_family
from diffusers import DDIMScheduler
from PIL import Image

from tadp import Conditioning, Features, TADPBackbone
from tadp.errors import CaptionError, ImageError
from tadp.features import AttentionMaps
from tadp.images.tiles import grid

SMALL = {"tile_px": 128, "overlap_px": 64}


def same(features: Features, other: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(features.maps, other.maps, strict=True))


class Local(TADPBackbone):
    """A backbone whose cells are means of only their own pixels, so tiles and a single pass must agree."""

    def forward(self, images, text=None, **_options):
        size = images.shape[2], images.shape[3]
        padded = F.pad(images, (0, -size[1] % 64, 0, -size[0] % 64), mode="replicate")
        maps = [
            F.avg_pool2d(padded, stride)[..., : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]
            for stride in self.feature_info.reduction
        ]
        attention = AttentionMaps({1: maps[1].flip(1)}, (("a", "b", "c"),) * len(images))
        return Features(tuple(maps), attention, size)


def local() -> Local:
    backbone = build_backbone()
    backbone.__class__ = Local
    return backbone


@pytest.mark.parametrize("size", [(200, 330), (128, 500), (64, 129), (257, 65)])
@pytest.mark.parametrize(("tile_px", "overlap_px"), [(128, 0), (128, 64), (192, 128), (64, 0)])
def test_where_a_cell_sees_itself_alone_tiles_are_a_single_pass(size, tile_px, overlap_px):
    backbone, pixels = local(), images(1, *size)
    by_tiles = backbone.tiled(pixels, "", tile_px=tile_px, overlap_px=overlap_px, batch_size=3)
    single = backbone(pixels)
    assert by_tiles.image_size == size
    for level_map, other_map in zip(by_tiles.maps, single.maps, strict=True):
        torch.testing.assert_close(level_map, other_map, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_tiles.attention.at(1), single.attention.at(1), rtol=1e-5, atol=1e-6)
    assert by_tiles.attention.tokens == (("a", "b", "c"),)


def by_hand(backbone, pixels, texts, *, tile_px: int, overlap_px: int, stride_of=lambda level: 8 * 2**level):
    """Blend maps and attention cell by cell: a tile's weight grows with the cell's distance from the tile's border."""
    height, width = pixels.shape[2:]
    coarsest = backbone.feature_info.reduction[-1]
    starts = []
    for side in (height, width):
        padded = math.ceil(side / coarsest) * coarsest
        side_starts = [0]
        while side_starts[-1] + tile_px < padded:
            side_starts.append(min(side_starts[-1] + tile_px - overlap_px, padded - tile_px))
        starts.append(side_starts)
    padded = F.pad(pixels, (0, -width % coarsest, 0, -height % coarsest), mode="replicate")
    sums, weights = {}, {}
    places = [(top, left) for top in starts[0] for left in starts[1]]
    for number, (top, left) in enumerate(places):
        text = texts if isinstance(texts, str) else texts[number]
        features = backbone(padded[..., top : top + tile_px, left : left + tile_px], text)
        parts = {("map", k): level_map for k, level_map in enumerate(features.maps)}
        if features.attention is not None:
            parts |= {("attention", k): features.attention.at(k) for k in features.attention.levels}
        for key, part in parts.items():
            stride = stride_of(key[1])
            shape = (part.shape[1], math.ceil(height / stride), math.ceil(width / stride))
            total = sums.setdefault(key, torch.zeros(shape))
            weight = weights.setdefault(key, torch.zeros(shape[1:]))
            for row in range(part.shape[2]):
                for column in range(part.shape[3]):
                    y, x = top // stride + row, left // stride + column
                    if y < shape[1] and x < shape[2]:
                        w = ramp(row, top, starts[0], tile_px, stride) * ramp(column, left, starts[1], tile_px, stride)
                        total[:, y, x] += w * part[0, :, row, column]
                        weight[y, x] += w
    return {key: total / weights[key] for key, total in sums.items()}


def ramp(cell: int, start: int, starts: list[int], tile_px: int, stride: int) -> float:
    at, number = (cell + 0.5) * stride, starts.index(start)
    weight = 1.0
    if number > 0 and (shared := starts[number - 1] + tile_px - start):
        weight = min(weight, at / shared)
    if number < len(starts) - 1 and (shared := start + tile_px - starts[number + 1]):
        weight *= min(1.0, (tile_px - at) / shared)
    return weight


def assert_by_hand(features: Features, expected: dict) -> None:
    for level, level_map in enumerate(features.maps):
        assert relative_error(level_map[0], expected["map", level]) < 1e-5
    levels = [key[1] for key in expected if key[0] == "attention"]
    if features.attention is not None:
        assert features.attention.levels == tuple(levels)
        for level in levels:
            assert relative_error(features.attention.at(level)[0], expected["attention", level]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("size", "overlap_px"), [((200, 330), 64), ((200, 330), 0), ((140, 128), 64)])
def test_tiles_are_blended_as_by_hand(backbone, size, overlap_px):
    pixels = images(1, *size)
    features = backbone.tiled(pixels, "a dog and a cat", tile_px=128, overlap_px=overlap_px)
    assert_by_hand(features, by_hand(backbone, pixels, "a dog and a cat", tile_px=128, overlap_px=overlap_px))
    single = backbone(pixels, "a dog and a cat")
    assert [level_map.shape for level_map in features.maps] == [level_map.shape for level_map in single.maps]
    assert features.attention.words(1)[0].words == ("a", "dog", "and", "a", "cat")
    sums = features.attention.at(1).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums))  # still probabilities


@torch.no_grad()
def test_timesteps_and_noise_go_through_each_tile():
    options = {"timestep": (1, 261), "combine_timesteps": "concatenate", "noise_samples": 1}
    backbone = build_backbone(scheduler=DDIMScheduler(), **options)
    pixels = images(1, 128, 200)
    features = backbone.tiled(pixels, "a dog", **SMALL)
    assert tuple(level_map.shape[1] for level_map in features.maps) == backbone.feature_info.channels
    assert_by_hand(features, by_hand(backbone, pixels, "a dog", **SMALL))


@torch.no_grad()
@pytest.mark.parametrize("family", ["SDXL", "SD 3 without T5"])
def test_each_family_has_its_own_multiple(tmp_path, family):
    backbone = TADPBackbone.from_pretrained(build_family(family, tmp_path / "model"))
    assert backbone.feature_info.reduction == (8, 16, 32)
    pixels = images(1, 64, 150)
    features = backbone.tiled(pixels, "a dog", tile_px=64, overlap_px=32)
    assert_by_hand(features, by_hand(backbone, pixels, "a dog", tile_px=64, overlap_px=32))
    texts = backbone.encode_text(["a dog", "a cat", "a red dog", "a cat"])
    backbone = backbone.with_options(attach_attention=())  # with attached attention, a text per tile is refused
    each = backbone.tiled(pixels, texts, tile_px=64, overlap_px=32)
    captions = ["a dog", "a cat", "a red dog", "a cat"]
    assert_by_hand(each, by_hand(backbone, pixels, captions, tile_px=64, overlap_px=32))


# One tile


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 128), (40, 72), (8, 100)])
def test_an_image_no_larger_than_a_tile_is_one_pass_bit_for_bit(backbone, size):
    pixels = images(1, *size)
    for text in ("a dog", ["a dog"], backbone.encode_text("a dog")):
        by_tiles, single = backbone.tiled(pixels, text, **SMALL), backbone(pixels, "a dog")
        assert same(by_tiles, single)
        assert all(torch.equal(by_tiles.attention.at(k), single.attention.at(k)) for k in (1, 2))
        assert by_tiles.attention.words(1)[0].words == ("a", "dog")
        assert by_tiles.image_size == size


@torch.no_grad()
def test_every_pass_has_one_shape(backbone, monkeypatch):
    shapes = []
    encode = TADPBackbone.latents
    monkeypatch.setattr(
        TADPBackbone,
        "latents",
        lambda self, pixels, *more, **how: shapes.append(pixels.shape) or encode(self, pixels, *more, **how),
    )
    backbone.tiled(images(1, 200, 330), "a dog", **SMALL)
    assert set(shapes) == {(1, 3, 128, 128)}
    assert len(shapes) == len(grid((200, 330), **SMALL)) == 15
    shapes.clear()
    backbone.tiled(images(1, 200, 330), "a dog", **SMALL, batch_size=4)
    assert [shape[0] for shape in shapes] == [4, 4, 4, 3]


# Images


@torch.no_grad()
def test_an_image_of_any_kind_gives_the_same(backbone, tmp_path):
    levels = (images(1, 130, 200)[0] * 255).round().to(torch.uint8)
    array = levels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "image.png")
    expected = backbone.tiled(levels.float() / 255, "a dog", **SMALL)
    for image in (
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        Image.fromarray(array),
        array,
        levels,
        levels[None],
    ):
        assert same(backbone.tiled(image, "a dog", **SMALL), expected)


@torch.no_grad()
def test_batches_of_tiles_give_the_same(backbone):
    expected = backbone.tiled(images(1, 200, 200), "a dog", **SMALL)
    for count in (2, 100):
        features = backbone.tiled(images(1, 200, 200), "a dog", **SMALL, batch_size=count)
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(features.maps, expected.maps, strict=True))


# Text


@torch.no_grad()
def test_each_tile_may_have_a_caption_of_its_own():
    backbone, pixels = build_backbone(attach_attention=()), images(1, 140, 200)
    captions = ["a dog", "a cat", "grass", "", "a red coat", "a dog and a cat"]
    assert len(grid((140, 200), **SMALL)) == 6
    features = backbone.tiled(pixels, captions, **SMALL, batch_size=4)
    assert features.attention is None
    assert_by_hand(features, by_hand(backbone, pixels, captions, **SMALL))
    assert same(features, backbone.tiled(pixels, backbone.encode_text(captions), **SMALL, batch_size=4))
    with backbone.conditioning(captions):
        assert same(features, backbone.tiled(pixels, **SMALL, batch_size=4))
    assert not same(features, backbone.tiled(pixels, captions[::-1], **SMALL, batch_size=4))


@torch.no_grad()
def test_attention_by_name_means_the_same_in_tiles_of_different_captions():
    backbone, pixels = build_backbone(pool_attention=("dog", "cat")), images(1, 128, 192)
    captions = ["a dog", "a red cat and a dog"]
    features = backbone.tiled(pixels, captions, **SMALL)
    expected = by_hand(backbone, pixels, captions, **SMALL)
    assert_by_hand(features, expected)
    assert features.attention is None
    cat = features.maps[1][0, -1]
    assert (cat[:, :4] == 0).all()  # the first tile's caption has no cat
    assert (cat[:, 4:] > 0).all()
    assert backbone.tiled(pixels, "a dog", **SMALL).attention.levels == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"attention is attached per token, but a token is a different word in the text of each tile"
            r".*pool_attention=\[…\]",
        ),
        (
            {"attach_attention": (), "record_attention": (1,)},
            r"attention per token cannot be put together.*record_attention",
        ),
        ({"pool_attention": ("dog",), "record_attention": (0,)}, r"attention per token cannot be put together"),
    ],
)
def test_attention_by_token_is_refused_where_tokens_differ(options, message):
    backbone = build_backbone(**options)
    with pytest.raises(ValueError, match=message):
        backbone.tiled(images(1, 128, 192), ["a dog", "a cat"], **SMALL)
    backbone.attach_captioner(lambda pixels: ["a dog"] * len(pixels))
    with pytest.raises(ValueError, match=message):
        backbone.tiled(images(1, 128, 192), **SMALL)


@torch.no_grad()
def test_an_attached_captioner_describes_each_tile():
    backbone, pixels, shapes = build_backbone(attach_attention=()), images(1, 128, 256), []

    def captioner(batch):
        shapes.append(tuple(batch.shape))
        return ["a dog" if tile.mean() > pixels.mean() else "a cat" for tile in batch]

    tiles = [pixels[..., :128], pixels[..., 64:192], pixels[..., 128:]]
    captions = ["a dog" if tile.mean() > pixels.mean() else "a cat" for tile in tiles]
    assert set(captions) == {"a dog", "a cat"}
    backbone.attach_captioner(captioner)
    features = backbone.tiled(pixels, **SMALL, batch_size=2)
    assert shapes == [(2, 3, 128, 128), (1, 3, 128, 128)]
    expected = backbone.tiled(pixels, captions, **SMALL, batch_size=2)
    assert same(features, expected)
    # An argument takes precedence over the captioner, and one text is enough for all tiles.
    assert same(backbone.tiled(pixels, "a dog", **SMALL), backbone.tiled(pixels, ["a dog"], **SMALL))
    build_backbone().attach_captioner(captioner).tiled(pixels[..., :128], **SMALL)  # a single tile has only one text


@torch.no_grad()
def test_without_text_the_default_is_taken(backbone):
    assert same(backbone.tiled(images(1, 128, 192), **SMALL), backbone.tiled(images(1, 128, 192), "", **SMALL))
    with pytest.raises(CaptionError, match=r"no text for these images, and default_text is None"):
        build_backbone(default_text=None).tiled(images(1, 128, 192), **SMALL)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_another_number_of_captions_is_refused_with_the_number_of_tiles(backbone, count):
    message = (
        rf"one for each of its 15 tiles, 3 rows of 5, each of 128x128 pixels; got {count} captions\. "
        r"tadp\.images\.tiles\.grid"
    )
    with pytest.raises(CaptionError, match=message):
        backbone.tiled(images(1, 200, 330), ["a dog"] * count, **SMALL)
    with pytest.raises(CaptionError, match=rf"got {count} texts\. tadp\.images\.tiles\.grid\(\(200, 330\)"):
        backbone.tiled(images(1, 200, 330), Conditioning(embeddings(count, 77)), **SMALL)


def test_a_caption_that_is_too_long_is_counted_or_cut(backbone):
    with pytest.raises(CaptionError, match=r"has 102 tokens, but the text encoder takes 77"):
        backbone.tiled(images(1, 64, 64), "dog " * 100)
    with pytest.warns(UserWarning, match=r"has 102 tokens"):
        backbone.tiled(images(1, 64, 64), "dog " * 100, truncate=True)


def test_rows_of_a_text_keep_all_that_it_has():
    words = build_backbone().encode_text(["a dog", "a cat", "grass"])
    text = Conditioning(
        words.embeddings, words.tokens, words.words, torch.ones(3, 77, dtype=torch.bool), torch.rand(3, 5)
    )
    some = text.take(range(1, 3))
    assert torch.equal(some.embeddings, text.embeddings[1:])
    assert torch.equal(some.pooled, text.pooled[1:])
    assert torch.equal(some.mask, text.mask[1:])
    assert (some.tokens, some.words) == (text.tokens[1:], text.words[1:])


# The result


def test_the_result_has_the_dtype_and_device_asked_for_and_no_gradient(backbone):
    expected = backbone.tiled(images(1, 128, 192), "a dog", **SMALL)
    assert not any(level_map.requires_grad for level_map in expected.maps)
    assert backbone.unet.conv_in.weight.requires_grad
    for width in (192, 64):
        half = backbone.tiled(images(1, 128, width), "a dog", **SMALL, dtype=torch.float16, device="cpu")
        single = backbone.tiled(images(1, 128, width), "a dog", **SMALL)
        for tensor, expected_tensor in zip(
            (*half.maps, half.attention.at(1)), (*single.maps, single.attention.at(1)), strict=True
        ):
            assert tensor.dtype == torch.float16
            assert relative_error(tensor, expected_tensor) < 1e-3
    bfloat = build_backbone().to(torch.bfloat16)
    assert bfloat.tiled(images(1, 128, 192), "a dog", **SMALL).maps[0].dtype == torch.bfloat16
    assert bfloat.tiled(images(1, 128, 192), "a dog", **SMALL, dtype=torch.float32).maps[0].dtype == torch.float32


def test_a_bar_shows_the_tiles(backbone, capsys):
    backbone.tiled(images(1, 128, 192), "a dog", **SMALL, progress=True)
    assert "tiles: 100%" in capsys.readouterr().err
    backbone.tiled(images(1, 128, 192), "a dog", **SMALL)
    assert capsys.readouterr().err == ""


# Errors


def test_what_cannot_be_tiled_is_refused(backbone):
    with pytest.raises(ImageError, match=r"expected one image; got a batch of 2"):
        backbone.tiled(images(2, 64, 64), "a dog")
    with pytest.raises(ValueError, match=r"batch_size must be 1 or more; got 0"):
        backbone.tiled(images(1, 64, 64), "a dog", batch_size=0)
    with pytest.raises(ValueError, match=r"tile_px must be a multiple of the coarsest stride, 64; got 100\. Pass 128"):
        backbone.tiled(images(1, 64, 64), "a dog", tile_px=100)
    with pytest.raises(ValueError, match=r"overlap_px must be less than tile_px, 128; got 128"):
        backbone.tiled(images(1, 64, 64), "a dog", tile_px=128)
    with pytest.raises(ImageError, match=r"the limit is 0\.004"):
        backbone.tiled(np.zeros((64, 65, 3), np.uint8), "a dog", max_pixels=4096)


def test_what_is_no_dtype_or_number_is_refused(no_type_checker, backbone):
    for dtype, shown in ((torch.int8, r"torch\.int8"), ("float16", r"'float16'")):
        with pytest.raises(
            TypeError, match=rf"dtype must be a floating-point torch\.dtype, such as torch\.float16; got {shown}"
        ):
            backbone.tiled(images(1, 64, 64), "a dog", dtype=dtype)
    with pytest.raises(TypeError, match=r"batch_size must be a whole number; got 2\.5"):
        backbone.tiled(images(1, 64, 64), "a dog", batch_size=2.5)
