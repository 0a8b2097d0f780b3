"""Pictures of attention: a heat map over an image, and a sheet with one heat map per word.

    words = pixel_words(features, backbone.feature_info, levels=(0, 1))
    word_sheet(image, words, caption).save("words.png")

On a sheet, each word's heat is scaled from the word's lowest to its highest value. It is then multiplied by the square
root of the ratio of the word's highest value to the highest value of the sheet. Without this second step, the noise of
a word that no cell attends to would glow like an object. Weak heat also darkens its surroundings less, so such a word
shows a faded image rather than a black panel. Weak and strong words can therefore not be compared by eye, so each
word's highest value is written next to it.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from tadp.drawing.canvas import FAINT, HEAT, INK, PAPER, Font, arrange, fit, font, map_colors
from tadp.errors import CaptionError
from tadp.features import FeatureInfo, Features, WordMaps, cells_of, resized
from tadp.images.reading import ImageLike, to_pil

_ARTICLES = ("a", "an", "the", "this", "that", "it", "its", "there", "and", "or", "as", "is", "are", "was")
_PREPOSITIONS = ("of", "in", "on", "at", "to", "with", "by", "from", "for", "into", "near", "next", "over")
SKIPPED_WORDS = frozenset((*_ARTICLES, *_PREPOSITIONS))
CELL_PX = 320  # a picture on the sheet covers about the area of a square with this side

_MARGIN, _GAP, _CORNER = 40, 28, 14
_TITLE_PX, _LABEL_PX, _NUMBER_PX = 34, 26, 19


def pixel_words(features: Features, feature_info: FeatureInfo, *, levels: Sequence[int], index: int = 0) -> WordMaps:
    """Return the attention of one image per word, at the image's own size.

    The attention of each level is enlarged by the level's stride and cropped to the image, and then the levels are
    averaged. So maps of different strides, and of padded images, match the pixels of the image.

    Args:
        features: Features with recorded attention.
        feature_info: The `feature_info` of the backbone that computed the features.
        levels: The levels to average. The attention of each must have been recorded.
        index: Position of the image in the batch, counted from 0.

    Returns:
        The words, and one map per word, (W, height, width).

    Raises:
        ValueError: If `levels` is empty, a level was not recorded, or the words of the text are not known.
    """
    if not levels:
        raise ValueError("pass at least one level.")
    if features.attention is None:
        raise ValueError("these features have no attention; build the backbone with record_attention=(0, 1).")
    cells = cells_of(features.image_size, feature_info.reduction) | dict(features.attention.cells)
    maps: list[Tensor] = []
    words: tuple[str, ...] = ()
    for level in levels:
        word_maps = features.attention.words(level)[index]
        words = word_maps.words
        maps.append(resized(word_maps.maps.detach()[None].float(), features.image_size, cells=cells[level])[0])
    return WordMaps(words, torch.stack(maps).mean(dim=0).cpu())


def overlay(image: ImageLike, heat: Float[Tensor, "h w"], *, strength: float = 1.0) -> Image.Image:
    """Draw a heat map over an image: places with low values lose their colour and turn dark, high values glow.

    Args:
        image: One image in any form that `tadp.images.to_pil` reads.
        heat: The heat map, (h, w), of any size and with any finite values. It is smoothly enlarged to the whole image
            and scaled from its lowest to its highest value. A constant map counts as low everywhere.
        strength: How bright high values and how dark low values are drawn, from 0 (only the image, in faded colours) to
            1, the default.

    Returns:
        A picture of the image's size.

    Raises:
        ImageError: If the image cannot be read.
        ValueError: If `heat` is not (h, w), or contains NaN or infinite values.
    """
    picture = to_pil(image)
    share = strength * _stretched(heat, picture.size)  # (H, W) in [0, 1]
    color = map_colors(share, HEAT)
    share = share[..., None]
    pixels = np.asarray(picture).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    below = (0.35 * pixels + 0.65 * grey) * (0.95 - strength * 0.35 + strength * 0.3 * share)
    opacity = 0.28 * strength + 0.37 * share
    return Image.fromarray((below * (1 - opacity) + color * opacity).round().clip(0, 255).astype(np.uint8))


def word_sheet(
    image: ImageLike, words: WordMaps, caption: str, *, all_words: bool = False, columns: int | None = None
) -> Image.Image:
    """Draw a sheet with the caption, the image, and one heat map per word.

    The number next to a word is the highest attention of any cell to the word, from 0 to 1. Small images are
    enlarged and large images are shrunk.

    Args:
        image: One image in any form that `tadp.images.to_pil` reads.
        words: One map per word, from `pixel_words` or `AttentionMaps.words`.
        caption: The caption to write at the top.
        all_words: Whether to also show articles, prepositions and similar words (`SKIPPED_WORDS`). They are always
            shown if the caption has no other words.
        columns: Number of pictures per row; None is the number that makes the sheet about 1.8 times as wide as high.

    Raises:
        CaptionError: If `words` has no words.
        ImageError: If the image cannot be read.

    Example:
        >>> words = WordMaps(("a", "cat"), torch.rand(2, 8, 8))
        >>> word_sheet(np.zeros((64, 64, 3), np.uint8), words, "a cat").size
        (748, 505)
    """
    shown = [(word, heat) for word, heat in words if all_words or word.lower() not in SKIPPED_WORDS] or list(words)
    if not shown:
        raise CaptionError(f"the caption {caption!r} has no words to show; pass a caption with words.")
    picture = _resized(to_pil(image))
    corners = _rounded(picture.size)
    cells = [_cell(picture, corners, "image", "")]
    peaks = [float(heat.max()) for _, heat in shown]
    for (word, heat), peak in zip(shown, peaks, strict=True):
        strength = math.sqrt(peak / max(peaks)) if 0 < peak < math.inf else 1.0
        value = "<0.01" if peak < 0.01 else f"{peak:.2f}"
        cells.append(_cell(overlay(picture, heat, strength=strength), corners, word, value))

    columns = min(columns or _columns(len(cells), picture.size), len(cells))
    title, line_px = font(_TITLE_PX), round(1.32 * _TITLE_PX)
    width = columns * cells[0].width + (columns - 1) * _GAP
    lines = _wrapped(caption.strip() or "(no caption)", title, width)
    top = _MARGIN + len(lines) * line_px + 20
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    page, _, _ = arrange(rows, margins_px=(_MARGIN, top, _MARGIN, _MARGIN - 8), gap_px=(_GAP, _GAP))
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * line_px - 6), line, font=title, fill=INK)
    return page


def _cell(picture: Image.Image, corners: Image.Image, word: str, value: str) -> Image.Image:
    """Draw a picture with round corners. Below it, a word on the left and its number on the right share a baseline."""
    width = max(picture.width, 150)
    cell = Image.new("RGB", (width, picture.height + 14 + round(1.3 * _LABEL_PX)), PAPER)
    cell.paste(picture, ((width - picture.width) // 2, 0), corners)
    draw, number, baseline = ImageDraw.Draw(cell), font(_NUMBER_PX), picture.height + 14 + _LABEL_PX
    room = width - number.getlength(value) - 10 * bool(value)
    text, shown = fit(word, room, size_px=_LABEL_PX, least_px=14)
    draw.text((0, baseline), text, font=shown, fill=INK if value else FAINT, anchor="ls")
    draw.text((width, baseline), value, font=number, fill=FAINT, anchor="rs")
    return cell


def _stretched(heat: Float[Tensor, "h w"], size: tuple[int, int]) -> np.ndarray:
    if heat.ndim != 2:
        raise ValueError(f"a heat map must be (h, w); got shape {tuple(heat.shape)}.")
    if not heat.isfinite().all():
        raise ValueError("the heat map holds NaN or infinite values; the attention overflowed. Use float32.")
    values = heat.detach().float().cpu()
    low, high = values.aminmax()
    values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    # Unlike bilinear resizing, bicubic draws no diamonds around single hot cells. Its overshoot is clipped.
    width, height = size
    fine = F.interpolate(values[None, None], size=(height, width), mode="bicubic", antialias=True)[0, 0]
    return fine.clamp_(0, 1).numpy()


def _resized(picture: Image.Image) -> Image.Image:
    """Resize to about CELL_PX² pixels, with no side longer than twice CELL_PX."""
    scale = min(CELL_PX / math.sqrt(picture.width * picture.height), 2 * CELL_PX / max(picture.size))
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _columns(count: int, size: tuple[int, int]) -> int:
    """The number of columns that makes a sheet about 1.8 times as wide as high, with the fullest last row."""
    width, height = max(size[0], 150) + _GAP, size[1] + 80
    wanted = math.sqrt(1.8 * count * height / width)
    choices = range(max(1, round(wanted) - 1), round(wanted) + 2)
    return min(choices, key=lambda columns: -count % columns / columns + 0.6 * abs(math.log(columns / wanted)))


def _rounded(size: tuple[int, int]) -> Image.Image:
    """A mask with round corners, drawn four times as large and shrunk, so that its edge is smooth."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), 4 * _CORNER, fill=255)
    return mask.reduce(4)


def _wrapped(text: str, shown: Font, width: int) -> list[str]:
    """Break text into lines no wider than `width`. A wider word is cut."""
    lines = [""]
    for word in re.split(r"\s+", text):
        while shown.getlength(word) > width:
            cut = next(k for k in range(len(word), 0, -1) if k == 1 or shown.getlength(word[:k]) <= width)
            lines += [word[:cut], ""] if lines[-1] else []
            lines[-1:] = [word[:cut], ""] if not lines[-1] else lines[-1:]
            word = word[cut:]
        joined = f"{lines[-1]} {word}".strip()
        if shown.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [line for line in lines if line]
