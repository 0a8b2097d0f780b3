"""What the page of `tadp explore` draws: principal components of features, and the difference between two features."""

import io
from base64 import b64encode
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tadp.drawing import overlay
from tadp.explore.explorer import View
from tadp.features import Features
from tadp.web.markup import escaped
from tadp.web.page import frame

_LEAST_DISTANCE = 1e-5  # smaller cosine distances are rounding errors


def component_pictures(features: Sequence[Features], level: int) -> list[Image.Image | None]:
    """Draw the first three principal components of the cells of a level as red, green and blue.

    If the levels have the same number of channels, components and colours are computed from all cells together, so
    that the same colour means the same in all pictures.

    Args:
        features: Features of one image each.
        level: The level to draw.

    Returns:
        For each of `features`, a picture with one pixel per cell; None if they lack the level.
    """
    maps = {k: own.by_level[level][0].detach().float().cpu() for k, own in enumerate(features) if level in own.by_level}
    is_same = len({len(own) for own in maps.values()}) == 1
    groups = [list(maps)] if is_same else [[k] for k in maps]
    drawn = {k: picture for group in groups for k, picture in zip(group, _drawn([maps[k] for k in group]), strict=True)}
    return [drawn.get(k) for k in range(len(features))]


def _drawn(maps: Sequence[Float[Tensor, "_c _h _w"]]) -> list[Image.Image]:
    cells = torch.cat([own.flatten(1).T for own in maps])  # (cells, channels)
    centred = cells - cells.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:3]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    scores = centred @ (directions * largest.sign()).T  # the sign of a direction is arbitrary
    scores = F.pad(scores, (0, 3 - scores.shape[1]))  # one or two cells have fewer directions
    low, high = scores.amin(dim=0), scores.amax(dim=0)
    levels = ((scores - low) / (high - low).clamp(min=1e-12) * 255).round().byte()
    parts = levels.split([own[0].numel() for own in maps])
    return [
        Image.fromarray(part.unflatten(0, (own.shape[1], own.shape[2])).numpy())
        for part, own in zip(parts, maps, strict=True)
    ]


def feature_distances(first: Features, second: Features) -> dict[int, Float[Tensor, "_h _w"] | None]:
    """Compute the cosine distance between the features of the same place, by level.

    The distance is one minus the cosine of the angle between two vectors of channels: 0 for the same direction, 1 for
    orthogonal vectors, 2 for opposite ones.

    Args:
        first: Features of one image.
        second: Other features of the same image.

    Returns:
        For each level that both have, the distance at each cell, (h, w), in [0, 2]; None if the maps differ in shape.
    """
    distances: dict[int, Tensor | None] = {}
    for level in sorted(first.by_level.keys() & second.by_level.keys()):
        own, other = (features.by_level[level][0].detach().double().cpu() for features in (first, second))
        is_same = own.shape == other.shape
        distances[level] = 1 - torch.cosine_similarity(own, other, dim=0) if is_same else None
    return distances


def view_html(view: View, components: Sequence[Image.Image | None], *, letter: str) -> str:
    """Return a side of the page as HTML: the text, the interactive figure, predictions, and principal components.

    Args:
        view: The side.
        components: The picture of the components of each level, from level 0 on; None for a level without one.
        letter: Name of the side, such as "A".
    """
    text = f"“{escaped(view.text)}”" if view.text else "the empty prompt"
    parts = [f"<h2>{escaped(letter)}: {text}</h2><p>{escaped(' '.join(filter(None, view.details)))}</p>"]
    parts.append(frame(view.page))
    if view.predictions:
        parts.append("<h3>Predictions</h3>")
        parts.append(_row([_figure(picture, name) for name, picture in view.predictions.items()]))
    parts.append("<h3>Principal components</h3>")
    figures = [
        _figure(picture, f"level {level}, {picture.width}x{picture.height} cells", is_cells=True)
        for level, picture in enumerate(components)
        if picture is not None
    ]
    parts.append(_row(figures))
    return "".join(parts)


def difference_html(first: View, second: View) -> str:
    """Return the difference of two sides as HTML: a map and the mean cosine distance of each level."""
    figures = []
    for level, distance in feature_distances(first.features, second.features).items():
        title = f"level {level}, stride {first.strides[level]}: "
        if distance is None:
            maps = [view.features.by_level[level] for view in (first, second)]
            shapes = " and ".join("x".join(map(str, own.shape[1:])) for own in maps)
            figures.append(_figure(f"The maps differ in shape: {shapes} (channels, rows, columns).", title))
            continue
        low, mean, high = (float(value) for value in (distance.min(), distance.mean(), distance.max()))
        heat = distance if high > _LEAST_DISTANCE else torch.zeros_like(distance)
        figures.append(
            _figure(overlay(first.image, heat), f"{title}{_written(mean)} ({_written(low)} to {_written(high)})")
        )
    note = (
        "Cosine distance between A and B at each cell: the mean, and the lowest and highest value, at the ends of the "
        "colour scale. It is 0 for features in the same direction, and 1 for orthogonal ones."
    )
    return f"<h2>Difference of the features</h2><p>{note}</p>{_row(figures)}"


def _written(distance: float) -> str:
    return f"{max(distance, 0):.3f}" if distance < 0.1 else f"{distance:.2f}"


def _row(figures: Sequence[str]) -> str:
    return f'<div class="pictures">{"".join(figures)}</div>'


def _figure(picture: Image.Image | str, title: str, *, is_cells: bool = False) -> str:
    """A picture with its title, or a sentence in place of the picture."""
    if isinstance(picture, str):
        return f"<figure><p>{escaped(picture)}</p><figcaption>{escaped(title)}</figcaption></figure>"
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    kind = ' class="cells"' if is_cells else ""
    return (
        f'<figure><img{kind} src="{source}" alt="{escaped(title)}"><figcaption>{escaped(title)}</figcaption></figure>'
    )
