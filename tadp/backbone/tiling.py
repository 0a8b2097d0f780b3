"""Features of one large image from overlapping tiles. Memory holds only the result and a batch of tiles."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tadp.features import AttentionMaps, Features, cells_of
from tadp.files.checks import check_whole
from tadp.images.crops import Crops
from tadp.images.tiles import Share, TileGrid
from tadp.text.conditioning import Conditioning

# Names a map or the attention of the whole image: "map", "attention" or "heads", and its level.
Key = tuple[str, int]


def check_tiling(batch_size: int, dtype: torch.dtype | None) -> None:
    """Check the batch size and the dtype that were passed to `TADPBackbone.tiled`.

    Raises:
        TypeError: If `dtype` is not a floating-point `torch.dtype`, or `batch_size` is not an integer.
        ValueError: If `batch_size` is less than 1.
    """
    check_whole(batch_size, name="batch_size")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point torch.dtype, such as torch.float16; got {dtype!r}.")


def blend(
    extract: Callable[[Tensor, Conditioning | None], Features],
    crops: Crops,
    tiles: TileGrid,
    text: Conditioning | None,
    *,
    strides: Sequence[int],
    with_attention: bool,
    batch_size: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    progress: bool,
) -> Features:
    """Compute the features of an image's tiles, and blend them where tiles overlap.

    Args:
        extract: The backbone, or another function from tiles, (B, 3, H, W) in [0, 1], and their text to features.
        crops: The image, from which tiles are cut.
        tiles: Positions of the tiles.
        text: One text for all tiles, or one per tile. With None, `extract` chooses the text of each tile.
        strides: Stride of each level of the model in pixels, finest first.
        with_attention: Whether attention per token is blended too. All tiles must then have the same text.
        batch_size: Number of tiles per pass.
        dtype: Dtype of the result; None keeps the dtype that `extract` returns.
        device: Device of the result; None keeps the device that `extract` returns.
        progress: Whether to show a progress bar.

    Returns:
        Features of the whole image.
    """
    whole = _Whole(tiles, strides, dtype, device)
    first: AttentionMaps | None = None
    places = tiles.places
    for start in tqdm(range(0, len(places), batch_size), desc="tiles", unit="batch", disable=not progress):
        numbers = range(start, min(start + batch_size, len(places)))
        pixels = torch.cat([crops.cut(*places[number], *tiles.tile_size) for number in numbers])
        features = extract(pixels, text if text is None or len(text) == 1 else text.take(numbers))
        first = first or features.attention
        for row, number in enumerate(numbers):
            whole.add(number, _parts_of_tile(features, row, with_attention=with_attention))
    return whole.features(first if with_attention else None)


class _Whole:
    """The maps of the whole image, to which tiles are added."""

    def __init__(
        self,
        tiles: TileGrid,
        strides: Sequence[int],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ):
        self.tiles, self.dtype, self.device, self._strides = tiles, dtype, device, strides
        self._shares = [tiles.shares(stride) for stride in strides]
        self._sums: dict[Key, Tensor] = {}

    def add(self, number: int, parts: dict[Key, Float[Tensor, "_c _h _w"]]) -> None:
        """Add the weighted maps of one tile."""
        row, column = divmod(number, len(self.tiles.lefts))
        for key, part in parts.items():
            options = {"dtype": self.dtype or part.dtype, "device": self.device or part.device}
            if len(self.tiles) == 1:
                self._sums[key] = part[None].to(**options)
                continue
            down, across = self._shares[key[1]][0][row], self._shares[key[1]][1][column]
            if key not in self._sums:
                height, width = (side[-1].cells.stop for side in self._shares[key[1]])
                self._sums[key] = torch.zeros(1, len(part), height, width, **options)
            self._sums[key][0, :, down.cells, across.cells] += _weight(part, down, across).to(**options)

    def features(self, named: AttentionMaps | None) -> Features:
        """The features of the whole image.

        Args:
            named: Attention of any tile, for the names of its tokens; None without attention.
        """
        maps = {level: whole for (kind, level), whole in self._sums.items() if kind == "map"}
        attention, cells = None, cells_of(self.tiles.image_size, self._strides)
        if named is not None:
            levels = {level: self._sums["attention", level] for level in named.levels}
            heads = {
                level: self._sums["heads", level].unflatten(1, heads.shape[1:3])
                for level, heads in named.head_maps.items()
            }
            attention = AttentionMaps(levels, named.tokens[:1], named.spans and named.spans[:1], heads, cells)
        return Features(tuple(maps.values()), attention, self.tiles.image_size, levels=tuple(maps), cells=cells)


def _weight(part: Tensor, down: Share, across: Share) -> Tensor:
    part = part[:, : len(down.weights), : len(across.weights)]  # cells beyond the edge do not belong to the image
    precise = torch.promote_types(part.dtype, torch.float32)
    weights = down.weights[:, None] * across.weights
    return part.to(precise) * weights.to(part.device, precise)


def _parts_of_tile(features: Features, number: int, *, with_attention: bool) -> dict[Key, Tensor]:
    parts: dict[Key, Tensor] = {("map", level): batch[number] for level, batch in features.by_level.items()}
    if with_attention and features.attention is not None:
        for level in features.attention.levels:
            parts["attention", level] = features.attention.at(level)[number]
        for level, heads in features.attention.head_maps.items():
            parts["heads", level] = heads[number].flatten(0, 1)
    return parts
