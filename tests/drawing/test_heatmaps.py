import numpy as np
import pytest
import torch
from PIL import Image

from tadp.drawing import SKIPPED_WORDS, overlay, pixel_words, word_sheet
from tadp.drawing.heatmaps import CELL_PX
from tadp.errors import CaptionError, ImageError
from tadp.features import AttentionMaps, FeatureInfo, Features, Word, WordMaps

GREY = np.full((64, 96, 3), 128, np.uint8)


def spot(height: int = 8, width: int = 12, *, row: int = 2, column: int = 9, value: float = 0.5) -> torch.Tensor:
    """A map with one hot cell."""
    heat = torch.zeros(height, width)
    heat[row, column] = value
    return heat


def some_words(*names: str) -> WordMaps:
    return WordMaps(names, torch.rand(len(names), 8, 12, generator=torch.Generator().manual_seed(0)))


def warmth(picture: Image.Image) -> np.ndarray:
    """Red minus blue: hot places are orange, cold places violet."""
    pixels = np.asarray(picture).astype(int)
    return pixels[..., 0] - pixels[..., 2]


def test_heat_glows_where_the_map_is_hot():
    picture = overlay(GREY, spot())
    assert picture.size == (96, 64)
    row, column = np.unravel_index(warmth(picture).argmax(), (64, 96))
    assert (row // 8, column // 8) == (2, 9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_heat_does_not_depend_on_the_scale_of_the_map(scale):
    assert np.array_equal(overlay(GREY, spot() * scale), overlay(GREY, spot()))


def test_a_constant_map_is_cold_and_a_weaker_one_is_less_hot_and_less_dark():
    cold = warmth(overlay(GREY, torch.full((4, 4), 0.3)))
    assert cold.min() == cold.max()
    shown = [overlay(GREY, spot(), strength=strength) for strength in (0.0, 0.3, 1.0)]
    rises = [warmth(picture).max() - warmth(picture).min() for picture in shown]
    assert rises[0] == 0
    assert rises[0] < rises[1] < rises[2]
    darkest = [int(np.asarray(picture).sum(axis=2).min()) for picture in shown]
    assert darkest[0] > darkest[1] > darkest[2]


def test_a_map_without_strength_leaves_the_image_as_light_as_it_was_but_for_a_little():
    faded = np.asarray(overlay(GREY, spot(), strength=0.0)).astype(int)
    assert (faded == round(0.95 * 128)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_maps_of_any_precision_with_gradient_are_drawn(dtype):
    assert overlay(GREY, spot().to(dtype).requires_grad_()).size == (96, 64)


@pytest.mark.usefixtures("no_type_checker")
def test_a_map_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"must be \(h, w\); got shape \(2, 8, 8\)"):
        overlay(GREY, torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="NaN or infinite"):
        overlay(GREY, torch.full((4, 4), torch.nan))


def test_a_sheet_has_one_cell_for_the_image_and_one_a_word():
    words = some_words("red", "car", "tree")
    sheet = word_sheet(GREY, words, "red car tree", columns=4)
    # the picture's area is CELL_PX squared, and its sides are 96 to 64
    width = round(CELL_PX * (96 / 64) ** 0.5)
    assert sheet.width == 2 * 40 + 4 * width + 3 * 28
    taller = word_sheet(GREY, words, "red car tree", columns=1)
    assert taller.height > 3 * sheet.height


def test_articles_and_prepositions_are_left_out_unless_asked_for():
    words = some_words("a", "red", "car", "on", "the", "street")
    few, complete = (word_sheet(GREY, words, "x", all_words=all_words, columns=1) for all_words in (False, True))
    content = some_words("red", "car", "street")
    kept = WordMaps(content.words, words.maps[[1, 2, 5]])
    assert np.array_equal(few, word_sheet(GREY, kept, "x", columns=1))
    assert complete.height > few.height


def test_a_caption_of_small_words_alone_is_shown_all_the_same():
    assert "of" in SKIPPED_WORDS
    assert np.array_equal(
        word_sheet(GREY, some_words("of", "the"), "of the"),
        word_sheet(GREY, some_words("of", "the"), "of the", all_words=True),
    )


def test_a_caption_without_words_is_refused():
    with pytest.raises(CaptionError, match="has no words to show"):
        word_sheet(GREY, WordMaps((), torch.zeros(0, 8, 8)), "")


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        word_sheet(tmp_path / "text.jpg", some_words("cat"), "cat")


@pytest.mark.parametrize("size", [(8, 8), (8, 400), (400, 8), (17, 23), (1200, 900)])
def test_sheets_of_any_image_stay_of_a_size_to_look_at(size):
    sheet = word_sheet(np.zeros((*size, 3), np.uint8), some_words("cat", "dog"), "a cat and a dog")
    assert min(sheet.size) > 150
    assert max(sheet.size) < 2600


def test_long_captions_and_long_words_stay_on_the_sheet():
    word = "donaudampfschifffahrtsgesellschaft" * 4
    sheet = word_sheet(GREY, some_words(word, "cat"), f"a cat {word} " * 5, columns=1)
    margin = np.asarray(sheet)[:, -30:]
    assert (margin == 255).all()
    assert (np.asarray(sheet)[:, :30] == 255).all()


def test_a_word_is_dimmed_by_the_root_of_its_share_of_the_strongest():
    strong, faint = spot(value=0.8), spot(value=0.2)
    sheet = word_sheet(GREY, WordMaps(("cat", "dog"), torch.stack([strong, faint])), "cat dog", columns=3)
    width = round(CELL_PX * (96 / 64) ** 0.5)
    picture = Image.fromarray(GREY).resize((width, round(width * 64 / 96)), Image.Resampling.BICUBIC)
    expected = overlay(picture, faint, strength=0.5)
    left = 40 + 2 * (width + 28)
    rows = np.asarray(sheet)[:, left + 100 : left + 300].astype(int)
    wanted = np.asarray(expected)[20:60, 100:300].astype(int)
    tops = [top for top in range(60, 140) if np.array_equal(rows[top : top + 40], wanted)]
    assert len(tops) == 1


@pytest.fixture
def features() -> Features:
    """Features of two images of 20x28 pixels, padded to 32, with strides 8 and 16 and two words."""
    generator = torch.Generator().manual_seed(1)
    maps = {0: torch.rand(2, 5, 3, 4, generator=generator), 1: torch.rand(2, 5, 2, 2, generator=generator)}
    spans = (Word("red", 1, 2), Word("skateboard", 2, 4))
    tokens = (("<s>", "red", "skate", "board", "</s>"),) * 2
    feature_maps = (torch.zeros(2, 4, 3, 4), torch.zeros(2, 4, 2, 2))
    return Features(feature_maps, AttentionMaps(maps, tokens, (spans, spans)), (20, 28))


INFO = FeatureInfo((4, 4), (8, 16))


def bilinear(cells: torch.Tensor, stride: int, row: int, column: int) -> float:
    """Bilinear interpolation of one pixel between the centres of its four cells, written out."""
    value = 0.0
    y, x = (max((pixel + 0.5) / stride - 0.5, 0.0) for pixel in (row, column))
    for i in (int(y), int(y) + 1):
        for j in (int(x), int(x) + 1):
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            value += weight * float(cells[min(i, cells.shape[0] - 1), min(j, cells.shape[1] - 1)])
    return value


def test_pixel_words_are_the_levels_enlarged_by_their_stride_and_averaged(features):
    words = pixel_words(features, INFO, levels=(0, 1), index=1)
    assert words.words == ("red", "skateboard")
    assert words.maps.shape == (2, 20, 28)
    fine, coarse = (features.attention.at(level)[1] for level in (0, 1))
    for row, column in ((0, 0), (7, 8), (13, 20), (19, 27)):
        red = (bilinear(fine[1], 8, row, column) + bilinear(coarse[1], 16, row, column)) / 2
        board = (bilinear(fine[2:4].mean(0), 8, row, column) + bilinear(coarse[2:4].mean(0), 16, row, column)) / 2
        assert words["red"][row, column] == pytest.approx(red, abs=1e-6)
        assert words["skateboard"][row, column] == pytest.approx(board, abs=1e-6)


def test_pixel_words_lie_over_the_image_not_over_its_padding(features):
    one_cell = torch.zeros(2, 5, 3, 4)
    one_cell[:, 1, 2, 3] = 1.0  # covers rows 16 to 24 of 20 and columns 24 to 32 of 28
    attention = AttentionMaps({0: one_cell}, features.attention.tokens, features.attention.spans)
    heat = pixel_words(Features(features.maps, attention, (20, 28)), INFO, levels=(0,)).maps[0]
    assert heat[19, 27] == heat.max() > 0.8
    assert heat[:12].max() == 0


def test_pixel_words_say_what_is_missing(features):
    with pytest.raises(ValueError, match="at least one level"):
        pixel_words(features, INFO, levels=())
    with pytest.raises(ValueError, match="no attention at level 2; recorded: 0, 1"):
        pixel_words(features, FeatureInfo((4, 4, 4), (8, 16, 32)), levels=(2,))
    with pytest.raises(ValueError, match="have no attention"):
        pixel_words(Features(features.maps, None, (20, 28)), INFO, levels=(0,))
