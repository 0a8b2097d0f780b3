"""The page about one image: its pixels, the words of its text, and where each word is, in one HTML file."""

import io
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from tadp.errors import Argument, ImageError, OptionError
from tadp.images.reading import ImageLike, to_pil
from tadp.language.name_spans import Word
from tadp.web.markup import escaped
from tadp.web.terms import Group, Term, find_groups

_SIDE_PX = 1024  # longer side of the image in the page
_PNG_BYTES, _IMAGE_BYTES = 100_000, 300_000  # a larger PNG is stored as JPEG, whose quality is reduced if necessary
_FRAME = "width:100%;height:36rem;max-height:90vh;border:0"


class _View(NamedTuple):
    """Maps that the page can show: those of a level, or of one head of a layer."""

    maps: Float[Tensor, "l h w"]
    level: int
    layer: int | None = None
    head: int | None = None


def attention_page(
    maps: Mapping[int, Float[Tensor, "_l _h _w"]],
    *,
    image_size: tuple[int, int],
    tokens: Sequence[str],
    words: Sequence[Word] | None,
    names: Sequence[str] = (),
    image: ImageLike | None = None,
    cells: Mapping[int, tuple[float, float]] | None = None,
    head_maps: Mapping[int, Float[Tensor, "_k _l _h _w"]] | None = None,
    layers: Mapping[str, int] | None = None,
    shown_layers: Sequence[str] | None = None,
) -> str:
    """Return an HTML page that shows the attention of one image. `Features.to_html` describes what it shows.

    Args:
        maps: Attention to each of L tokens, by level, (L, h, w), in [0, 1].
        image_size: (height, width) of the image for the model, in pixels.
        tokens: The L tokens as strings; empty strings if they are not known.
        words: The words of the text and the positions of their tokens; None if they are not known.
        names: Names to pool by, which are shown below the words.
        image: The image, of the same shape as `image_size`; None shows only maps.
        cells: By level, how many rows and columns of cells the image covers; a level that is not listed is covered
            exactly.
        head_maps: Attention of each head, by level, (heads, L, h, w).
        layers: The level of each attention layer, by name, in the order of the heads in `head_maps`; None puts the
            heads of a level into one layer.
        shown_layers: The layers whose heads the page has; None is all.

    Raises:
        ImageError: If the image cannot be read, or has another shape than `image_size`.
        ValueError: If there are no maps, or they contain NaN or infinite values.
    """
    if not maps:
        raise ValueError("there are no attention maps to show; pass at least one level.")
    groups = find_groups(tokens, words, names)
    terms = [part for group in groups for part in group.parts if isinstance(part, Term)]
    views = [_View(level_maps, level) for level, level_maps in sorted(maps.items())]
    names_of_layers, views_of_heads = _views_of_heads(head_maps or {}, layers, shown_layers)
    weights = _weights(terms, len(tokens))
    stored, described, error = [], [], 0.0
    for view in (*views, *views_of_heads):
        values = torch.einsum("nl,lhw->nhw", weights, view.maps.detach().float().cpu())
        levels, low, high, rounding = _in_8_bits(values)
        rows, columns = values.shape[1:]
        covered = (cells or {}).get(view.level, (rows, columns))
        stored.append(levels.tobytes())
        error = max(error, rounding)
        described.append(
            {"level": view.level, "layer": view.layer, "head": view.head, "rows": rows, "columns": columns}
            | {"cells": [float(count) for count in covered], "low": low, "high": high}
        )
    text = " ".join(part.text for part in groups[0].parts if isinstance(part, Term))
    content = {
        "size": list(image_size),
        "groups": _numbered(groups),
        "terms": [{"text": term.text, "found": bool(term.spans)} for term in terms],
        "views": described,
        "layers": names_of_layers,
        "error": error,
        "maps": b64encode(b"".join(stored)).decode(),
    }
    picture = "" if image is None else _picture(to_pil(image), image_size, text)
    title = f"{text[:80]}{'…' if len(text) > 80 else ''}"
    return _filled({"title": escaped(title), "image": picture, "data": _as_script(content)})


def frame(page: str) -> str:
    """A page as part of another one, such as a notebook: an iframe whose scripts cannot reach the rest."""
    return f'<iframe sandbox="allow-scripts" style="{_FRAME}" title="attention" srcdoc="{escaped(page)}"></iframe>'


def _weights(terms: Sequence[Term], count: int) -> Float[Tensor, "n l"]:
    """The share of each of `count` tokens in each term's map."""
    weights = torch.zeros(len(terms), count)
    for row, term in zip(weights, terms, strict=True):
        for start, stop in term.spans:
            row[start:stop] += 1 / (stop - start) / len(term.spans)
    return weights


def _views_of_heads(
    head_maps: Mapping[int, Tensor], layers: Mapping[str, int] | None, shown: Sequence[str] | None
) -> tuple[list[str], list[_View]]:
    """The names of the layers whose heads the page has, and a view per head."""
    named = layers or {f"heads of level {level}": level for level in sorted(head_maps)}
    unknown = [name for name in shown or () if named.get(name) not in head_maps]
    if unknown:
        available = ", ".join(name for name, level in named.items() if level in head_maps)
        rule = f" must list layers whose heads were recorded: {available or 'there are none'}"
        raise OptionError(Argument("shown_layers"), f"{rule}; got {unknown[0]!r}.")
    chosen = [name for name, level in named.items() if level in head_maps and (shown is None or name in shown)]
    views = []
    for number, name in enumerate(chosen):
        level = named[name]
        siblings = [other for other, own in named.items() if own == level]
        count, rest = divmod(head_maps[level].shape[0], len(siblings))
        if rest:
            rule = f" must list all layers of level {level}, whose {head_maps[level].shape[0]} heads they share"
            raise OptionError(Argument("layers"), f"{rule}; got {len(siblings)} layers. Pass layout.attention_layers.")
        first = siblings.index(name) * count
        views += [_View(head_maps[level][first + head], level, number, head) for head in range(count)]
    return chosen, views


def _in_8_bits(maps: Float[Tensor, "n h w"]) -> tuple[UInt8[np.ndarray, "n h w"], list[float], list[float], float]:
    """Maps in 256 steps from the lowest to the highest value of each; the two values; and the largest error."""
    values = maps.double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the attention holds NaN or infinite values; it overflowed. Use float32.")
    low, high = (np.array([float(f"{value:.6g}") for value in extreme((1, 2))]) for extreme in (values.min, values.max))
    width = np.maximum(high - low, 1e-30)[:, None, None]
    levels = ((values - low[:, None, None]) / width * 255).round().clip(0, 255).astype(np.uint8)
    decoded = low[:, None, None] + levels / 255 * (high - low)[:, None, None]
    return levels, low.tolist(), high.tolist(), float(np.abs(decoded - values).max(initial=0))


def _numbered(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups with the number of a term in place of the term."""
    count, numbered = 0, []
    for group in groups:
        parts: list[int | str] = []
        for part in group.parts:
            parts.append(part if isinstance(part, str) else count)
            count += isinstance(part, Term)
        numbered.append({"title": group.title, "parts": parts})
    return numbered


def _picture(picture: Image.Image, image_size: tuple[int, int], text: str) -> str:
    """The element with the image: as PNG if that is small, and as JPEG otherwise."""
    height, width = image_size
    if not 0.9 < picture.width / picture.height * height / width < 1.1:
        raise ImageError(
            f"the image has {picture.height}x{picture.width} pixels (height x width), but the features are of an image "
            f"with {height}x{width}. Pass the same image."
        )
    picture.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    kind, data = "png", _encoded(picture, "PNG", optimize=True)
    if len(data) > _PNG_BYTES:
        for quality in (92, 85, 75, 60, 40):
            kind, data = "jpeg", _encoded(picture, "JPEG", quality=quality, optimize=True)
            if len(data) <= _IMAGE_BYTES:
                break
    return f'<img id="image" alt="{escaped(text)}" src="data:image/{kind};base64,{b64encode(data).decode()}">'


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _as_script(content: Mapping[str, Any]) -> str:
    """JSON that no browser takes for the end of a script."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _filled(values: Mapping[str, str]) -> str:
    """The template with its style sheet, its script and these values. Values are inserted as they are."""
    template, style, script = (
        files("tadp.web").joinpath(f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js")
    )
    inserted = {"style": style, "script": script, **values}
    return re.sub(r"@@(\w+)@@", lambda place: inserted[place[1]], template)
