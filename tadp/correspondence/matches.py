"""Find the points of one image in another by their features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tadp.errors import Argument, OptionError
from tadp.features import Features, resized
from tadp.files.checks import check_choice, check_whole

Method = Literal["windowed", "nearest", "soft"]
_ROWS = 512  # points whose similarities are in memory at a time


@dataclass(frozen=True, eq=False)
class Matches:
    """P points of an image, and where they are in another image. Coordinates are (x, y) in pixels from the top left.

    Attributes:
        points: The points in the first image, (P, 2).
        matched: Where they are in the second image, (P, 2).
        similarity: Cosine similarity of each point with the most similar cell of the second image, (P,), in [-1, 1].
        is_mutual: Whether the point in the second image leads back to the first point, up to one cell, (P,), bool.
    """

    points: Float[Tensor, "p 2"]
    matched: Float[Tensor, "p 2"]
    similarity: Float[Tensor, " p"]
    is_mutual: Bool[Tensor, " p"]

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Matches({len(self)} points, {int(self.is_mutual.sum())} mutual)"

    def select(self, chosen: Tensor) -> "Matches":
        """The points that a mask, (P,), bool, such as `is_mutual`, or a tensor of numbers chooses."""
        values = (self.points, self.matched, self.similarity, self.is_mutual)
        return replace(self, **dict(zip(self.__dataclass_fields__, (value[chosen] for value in values), strict=True)))

    def strongest(self, count: int, *, apart_px: float = 0.0) -> "Matches":
        """The most similar mutual matches, of which no two are closer than `apart_px` in the first image."""
        kept: list[int] = []
        for number in self.similarity.argsort(descending=True).tolist():
            far = all(torch.dist(self.points[number], self.points[other]) >= apart_px for other in kept)
            if self.is_mutual[number] and far and len(kept) < count:
                kept.append(number)
        return self.select(torch.tensor(kept, dtype=torch.long, device=self.points.device))


def match(
    features_a: Features,
    features_b: Features,
    points: Sequence[Sequence[float]] | Tensor | None = None,
    *,
    levels: Sequence[int] | None = None,
    method: Method = "windowed",
    window: int = 5,
    temperature: float = 0.05,
    index: tuple[int, int] = (0, 0),
) -> Matches:
    """Find points of one image in another image, by the cosine similarity of their features.

    Maps of several levels are normalized, resized to the finest of them, and count equally. Attention that is attached
    to the maps is left out, because its channels belong to the tokens of each image's own caption.

    Args:
        features_a: Features of the first image.
        features_b: Features of the second image, from the same model. Images may differ in size.
        points: P points (x, y) in the first image, in pixels, 0 to its width and height; None takes the centre of each
            cell of the finest of `levels`.
        levels: The levels to compare; None is the two finest that both have.
        method: "nearest" returns the centre of the most similar cell; "soft" the mean position over all cells, weighted
            by a softmax of the similarity; "windowed", the default, this mean only over the cells around the most
            similar one, which finds positions between the centres of cells.
        window: Height and width, in cells, of the square of cells that "windowed" averages; an odd number.
        temperature: Temperature of the softmax of "soft" and "windowed": a lower one gives similar cells more weight.
        index: Positions of the two images in the batches of their features.

    Raises:
        OptionError: If an argument has an invalid value, or a point lies outside the first image.
        ValueError: If the features share no level, a level was not computed, or their maps differ in channels.

    Source:
        The most similar cell: DIFT (arXiv:2306.03881). The mean within a window: GeoAware-SC (arXiv:2311.17034).
    """
    check_choice(method, get_args(Method), name="method")
    if check_whole(window, name="window") % 2 == 0:
        raise OptionError(Argument("window"), f" must be an odd number of cells; got {window}.")
    if not temperature > 0:
        raise OptionError(Argument("temperature"), f" must be above 0; got {temperature}.")
    shared = [level for level in features_a.by_level if level in features_b.by_level]
    chosen = shared[:2] if levels is None else sorted(set(levels))
    missing = [level for level in chosen if level not in shared]
    if missing or not chosen:
        raise ValueError(
            f"cannot compare levels {missing or 'none'}; both images have levels {shared or 'none'}. Choose from these."
        )
    sides = [
        _Side.of(features, chosen, number) for features, number in zip((features_a, features_b), index, strict=True)
    ]
    if sides[0].vectors.shape[0] != sides[1].vectors.shape[0]:
        raise ValueError("the maps of the two images differ in channels; compute both with one backbone.")
    first, second = sides
    start = first.centres() if points is None else _checked(points, first)
    find = {"method": method, "window": window, "temperature": temperature}
    matched, similarity = second.find(first.at(start), **find)
    returned, _ = first.find(second.at(matched), **find)
    is_mutual = ((returned - start).abs() <= first.cell_px).all(dim=1)
    return Matches(start, matched, similarity, is_mutual)


@dataclass(frozen=True)
class _Side:
    """The features of one image for comparison.

    Attributes:
        vectors: Normalized features of each cell, (C, h, w).
        cell_px: Width and height of a cell in pixels, (2,).
        size_px: Width and height of the image in pixels, (2,).
    """

    vectors: Float[Tensor, "c h w"]
    cell_px: Float[Tensor, " 2"]
    size_px: Float[Tensor, " 2"]

    @classmethod
    def of(cls, features: Features, levels: Sequence[int], number: int) -> "_Side":
        """Image `number` of the features of a batch."""
        maps = [_without_attention(features, level) for level in levels]
        if not 0 <= number < len(maps[0]):
            raise OptionError(Argument("index"), f" must be from 0 to {len(maps[0]) - 1}, the images; got {number}.")
        height, width = maps[0].shape[2:]
        rows, columns = features.cells.get(levels[0], (height, width))
        parts = []
        for level, level_map in zip(levels, maps, strict=True):
            image_map = level_map[number : number + 1].float()
            covered = features.cells.get(level, image_map.shape[2:])
            if level != levels[0]:  # as many cells as the finest level has, the last of which the image may only touch
                covered = covered[0] * height / rows, covered[1] * width / columns
                image_map = resized(image_map, (height, width), cells=covered)
            parts.append(F.normalize(image_map, dim=1))
        vectors = torch.cat(parts, dim=1)[0] / len(parts) ** 0.5
        height_px, width_px = features.image_size
        size_px = vectors.new_tensor([width_px, height_px])
        return cls(vectors, size_px / vectors.new_tensor([columns, rows]), size_px)

    def centres(self) -> Float[Tensor, "p 2"]:
        """The centre of each cell in pixels, row by row."""
        rows, columns = (torch.arange(count, device=self.vectors.device) for count in self.vectors.shape[1:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
        return ((grid + 0.5) * self.cell_px).minimum(self.size_px)

    def at(self, points: Float[Tensor, "p 2"]) -> Float[Tensor, "p c"]:
        """The features at points, interpolated between the centres of cells."""
        count = self.vectors.new_tensor(self.vectors.shape[:0:-1])
        places = points / self.cell_px / count * 2 - 1
        sampled = F.grid_sample(
            self.vectors[None], places[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return F.normalize(sampled[0, :, 0].T, dim=1)

    def find(
        self, descriptors: Float[Tensor, "p c"], *, method: Method, window: int, temperature: float
    ) -> tuple[Float[Tensor, "p 2"], Float[Tensor, " p"]]:
        """Where descriptors are found in this image, and their similarity with the most similar cell."""
        parts = [self._find(part, method, window, temperature) for part in descriptors.split(_ROWS)]
        points, similarity = (torch.cat(values) for values in zip(*parts, strict=True))
        return points, similarity

    def _find(
        self, descriptors: Float[Tensor, "p c"], method: Method, window: int, temperature: float
    ) -> tuple[Float[Tensor, "p 2"], Float[Tensor, " p"]]:
        centres = self.centres()
        similarity = descriptors @ self.vectors.flatten(1)
        best, number = similarity.max(dim=1)
        if method == "nearest":
            return centres[number], best
        scores = similarity / temperature
        if method == "windowed":
            reach = self.cell_px * (window / 2)
            near = ((centres[None] - centres[number][:, None]).abs() < reach).all(dim=2)
            scores = scores.masked_fill(~near, -torch.inf)
        return scores.softmax(dim=1) @ centres, best


def _without_attention(features: Features, level: int) -> Float[Tensor, "b c h w"]:
    """The map of a level without the attention per token that may be attached to it."""
    level_map, attention = features.by_level[level], features.attention
    if attention is None or level not in attention.maps:
        return level_map
    recorded = attention.at(level)
    own = level_map.shape[1] - recorded.shape[1]
    is_attached = own > 0 and torch.equal(level_map[:, own:], recorded.to(level_map.dtype))
    return level_map[:, :own] if is_attached else level_map


def _checked(points: Sequence[Sequence[float]] | Tensor, side: _Side) -> Float[Tensor, "p 2"]:
    """Points as a tensor, all of them inside the image."""
    values = torch.as_tensor(points, dtype=torch.float32, device=side.vectors.device)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0:
        rule = " must be a list of points (x, y) in pixels, (P, 2), with at least one"
        raise OptionError(Argument("points"), f"{rule}; got shape {tuple(values.shape)}.")
    outside = ~((values >= 0) & (values <= side.size_px)).all(dim=1)
    if outside.any():
        width, height = side.size_px.int().tolist()
        point = tuple(values[outside][0].tolist())
        raise OptionError(Argument("points"), f": {point} is outside of the image, {width}x{height} pixels (x, y).")
    return values
