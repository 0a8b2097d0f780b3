"""Pictures of attention: heat laid over an image, and a sheet with one heat map a word.

    words = pixel_words(features, backbone.feature_info, levels=(0, 1))
    word_sheet(image, words, caption).save("words.png")

Drawn with Pillow alone. On a sheet a word's heat runs from its own least to its own greatest value, and is then made
fainter, by the square root of that greatest value over the sheet's: scaled by itself alone, the noise of a word that
looks nowhere would glow like an object. Faint heat darkens its surroundings as little as it glows, so that such a word
shows the faded image, in which a tint is a weak preference, rather than a black panel. What is lost is the comparison
of faint words with strong ones by eye: the greatest value stands beside each.
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
from tadp.features import FeatureInfo, Features, WordMaps
from tadp.images.reading import ImageLike, to_pil

_ARTICLES = ("a", "an", "the", "this", "that", "it", "its", "there", "and", "or", "as", "is", "are", "was")
_PREPOSITIONS = ("of", "in", "on", "at", "to", "with", "by", "from", "for", "into", "near", "next", "over")
SKIPPED_WORDS = frozenset((*_ARTICLES, *_PREPOSITIONS))
CELL_PX = 320  # a picture of the sheet covers about as much as a square of this side

_MARGIN, _GAP, _CORNER = 40, 28, 14
_TITLE_PX, _LABEL_PX, _NUMBER_PX = 34, 26, 19


def pixel_words(features: Features, feature_info: FeatureInfo, *, levels: Sequence[int], index: int = 0) -> WordMaps:
    """The attention of one image by word, at the image's own size.

    Each level is enlarged by its stride and cropped to the image, then the levels are averaged, so that maps of
    different strides, and of images that were padded, lie over the right pixels.

    Args:
        features: Of a pass that recorded attention.
        feature_info: Of the backbone that made them.
        levels: Which to average; each must have been recorded.
        index: Which image of the batch.

    Returns:
        Maps (W, height, width), one a word.

    Raises:
        ValueError: If no level is given, one was not recorded, or the text carried no words.
    """
    if not levels:
        raise ValueError("pass at least one level.")
    if features.attention is None:
        raise ValueError("these features carry no attention; build the backbone with record_attention=(0, 1).")
    height, width = features.image_size
    maps: list[Tensor] = []
    words: tuple[str, ...] = ()
    for level in levels:
        one = features.attention.words(level)[index]
        words = one.words
        stride = feature_info.reduction[level]
        fine = F.interpolate(one.maps.detach()[None].float(), scale_factor=stride, mode="bilinear")[0]
        maps.append(fine[:, :height, :width])
    return WordMaps(words, torch.stack(maps).mean(dim=0).cpu())


def overlay(image: ImageLike, heat: Float[Tensor, "h w"], *, strength: float = 1.0) -> Image.Image:
    """Lay a heat map over an image: cold places lose their colour and go dark, hot ones glow.

    Args:
        image: As `tadp.images.to_pil` takes it.
        heat: Any size and any finite values; it is stretched over the whole image, smoothly, and scaled from its least
            value to its greatest. A constant map is cold everywhere.
        strength: How hot the hottest place and how dark the coldest is shown, from 0, the image in faded colours, to 1.

    Returns:
        A picture of the image's size.

    Raises:
        ImageError: If the image cannot be read.
        ValueError: If the map is not (h, w), or holds NaN or infinite values.
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
    """One sheet: the caption, the image, and one heat map a word over it.

    The number beside a word is the greatest attention any place pays it, from 0 to 1. Small images are enlarged, large
    ones shrunk.

    Args:
        image: As `tadp.images.to_pil` takes it.
        words: From `pixel_words`, or `AttentionMaps.words`.
        caption: What is written above.
        all_words: Show articles and prepositions too (`SKIPPED_WORDS`); they are shown anyway if there is nothing else.
        columns: Pictures in a row; by default what makes the sheet pleasantly wide.

    Raises:
        CaptionError: If there are no words.
        ImageError: If the image cannot be read.

    Example:
        >>> words = WordMaps(("a", "cat"), torch.rand(2, 8, 8))
        >>> word_sheet(np.zeros((64, 64, 3), np.uint8), words, "a cat").size
        (748, 505)
    """
    shown = [(word, one) for word, one in words if all_words or word.lower() not in SKIPPED_WORDS] or list(words)
    if not shown:
        raise CaptionError(f"the caption {caption!r} has no words to show; pass one that has.")
    picture = _resized(to_pil(image))
    corners = _rounded(picture.size)
    cells = [_cell(picture, corners, "image", "")]
    peaks = [float(one.max()) for _, one in shown]
    for (word, one), peak in zip(shown, peaks, strict=True):
        strength = math.sqrt(peak / max(peaks)) if 0 < peak < math.inf else 1.0
        value = "<0.01" if peak < 0.01 else f"{peak:.2f}"
        cells.append(_cell(overlay(picture, one, strength=strength), corners, word, value))

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
    """A picture with round corners; below it a word at the left and its number at the right, on one baseline."""
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
        raise ValueError(f"a heat map is (h, w); got shape {tuple(heat.shape)}.")
    if not heat.isfinite().all():
        raise ValueError("the heat map holds NaN or infinite values; the attention overflowed. Use float32.")
    values = heat.detach().float().cpu()
    low, high = values.aminmax()
    values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    # Bicubic shows no diamonds around single hot cells, as bilinear does; what it overshoots is clipped.
    width, height = size
    fine = F.interpolate(values[None, None], size=(height, width), mode="bicubic", antialias=True)[0, 0]
    return fine.clamp_(0, 1).numpy()


def _resized(picture: Image.Image) -> Image.Image:
    """About CELL_PX² pixels, neither side over twice CELL_PX."""
    scale = min(CELL_PX / math.sqrt(picture.width * picture.height), 2 * CELL_PX / max(picture.size))
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _columns(count: int, size: tuple[int, int]) -> int:
    """Columns that make a sheet about 1.8 times as wide as high, with the last row as full as can be."""
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
    """Lines no wider than `width`; a word that is wider still is cut."""
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
