"""Features of one large image from overlapping tiles, in the memory of the result and of a batch of tiles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tadp.backbone.text_source import Text, current_text, text_rows
from tadp.errors import CaptionError
from tadp.features import AttentionMaps, Features
from tadp.files.checks import check_whole
from tadp.images.crops import Crops
from tadp.images.reading import MAX_PIXELS, ImageLike
from tadp.images.tiles import Share, TileGrid, grid
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import check_captions

if TYPE_CHECKING:
    from tadp.backbone.backbone import TADPBackbone

# A map or attention of the whole image: "map" or "attention", and its level.
Key = tuple[str, int]


@torch.no_grad()
def tiled(
    backbone: "TADPBackbone",
    image: ImageLike,
    text: Text | None = None,
    *,
    tile_px: int = 512,
    overlap_px: int = 128,
    batch_size: int = 1,
    truncate: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    progress: bool = False,
) -> Features:
    """Features of one large image, from overlapping tiles that are blended where they meet. Without gradient.

    Peak memory is that of the result, of a pass over `batch_size` tiles, and of the image as it is stored. Every tile
    is an image to the model: what it normalises or attends to over a whole image, it does over a tile, so the result is
    not that of one pass (docs/large-images.md has measurements). An image no larger than a tile is one pass, bit for
    bit.

    Args:
        backbone: Whose features.
        image: One image, as `tadp.images.to_tensor` takes it.
        text: One caption or `Conditioning` for all tiles; or one for each, row by row, as `tadp.images.tiles.grid`
            lists them. None as in a call of the backbone: a captioner that is attached describes each tile.
        tile_px: Side of a tile, a multiple of the coarsest stride; about the size the model was trained on.
        overlap_px: That neighbouring tiles share, a multiple of the coarsest stride, under `tile_px`.
        batch_size: Tiles that go through together. With 1 every pass has one shape.
        truncate: Cut captions over the limit, with a warning, rather than refuse them.
        dtype: Of the result; None as the backbone gives it.
        device: Of the result; None where the backbone is. "cpu" keeps a large result out of a GPU's memory.
        max_pixels: The most pixels that are read; None lifts the limit.
        progress: Show a bar.

    Returns:
        As one pass returns them: level k is (1, channels[k], ceil(H / reduction[k]), ceil(W / reduction[k])). Where
        tiles have texts of their own, `attention` is None, and attention that is attached by name is in the maps.

    Raises:
        CaptionError: If there are neither one text nor one a tile; the message says how many tiles there are.
        ImageError: If the image cannot be read or used.
        TypeError: If `dtype` is no floating `torch.dtype`, or `batch_size` no integer.
        ValueError: If a size is no multiple, the overlap is not under the tile, `batch_size` is under 1, or attention
            by token is asked for though tiles have texts of their own, whose tokens are not the same words.

    Example:
        >>> import tadp
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> features = backbone.tiled(torch.rand(3, 200, 320), "a dog", tile_px=128, overlap_px=64)
        >>> [tuple(one.shape) for one in features.maps]
        [(1, 32, 25, 40), (1, 141, 13, 20), (1, 173, 7, 10), (1, 128, 4, 5)]
    """
    check_whole(batch_size, name="batch_size")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is a floating torch.dtype, such as torch.float16; got {dtype!r}.")
    crops = Crops(image, max_pixels=max_pixels)
    tiles = grid(crops.size, tile_px=tile_px, overlap_px=overlap_px, multiple=backbone.feature_info.reduction[-1])
    encoded = _encoded(backbone, text, tiles, truncate=truncate)
    differ = len(tiles) > 1 and (encoded is None or len(encoded) > 1)
    if differ:
        _check_texts_may_differ(backbone)
    whole = _Whole(tiles, backbone.feature_info.reduction, dtype, device)
    first: AttentionMaps | None = None
    places = tiles.places
    for start in tqdm(range(0, len(places), batch_size), desc="tiles", unit="batch", disable=not progress):
        some = places[start : start + batch_size]
        pixels = torch.cat([crops.cut(*place, *tiles.tile_size) for place in some])
        each = encoded
        if encoded is not None and len(encoded) > 1:
            each = text_rows(encoded, start, start + len(some))
        features = backbone(pixels, each)
        first = first or features.attention
        for number in range(len(some)):
            whole.add(start + number, _parts(features, number, with_attention=not differ))
    return whole.features(None if differ else first)


class _Whole:
    """The maps of the whole image, as tiles are added to them."""

    def __init__(
        self,
        tiles: TileGrid,
        reduction: Sequence[int],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ):
        self.tiles, self.dtype, self.device = tiles, dtype, device
        self._shares = [tiles.shares(one) for one in reduction]
        self._sums: dict[Key, Tensor] = {}

    def add(self, number: int, parts: dict[Key, Float[Tensor, "_c _h _w"]]) -> None:
        """One tile's maps, weighted."""
        row, column = divmod(number, len(self.tiles.lefts))
        for key, part in parts.items():
            kind = {"dtype": self.dtype or part.dtype, "device": self.device or part.device}
            if len(self.tiles) == 1:
                self._sums[key] = part[None].to(**kind)
                continue
            down, across = self._shares[key[1]][0][row], self._shares[key[1]][1][column]
            if key not in self._sums:
                height, width = (side[-1].cells.stop for side in self._shares[key[1]])
                self._sums[key] = torch.zeros(1, len(part), height, width, **kind)
            self._sums[key][0, :, down.cells, across.cells] += _weighted(part, down, across).to(**kind)

    def features(self, named: AttentionMaps | None) -> Features:
        """What was added, with the names of one tile's attention, if there is any."""
        maps = [self._sums["map", level] for level in range(len(self._shares))]
        attention = None
        if named is not None:
            levels = {level: self._sums["attention", level] for level in named.levels}
            attention = AttentionMaps(levels, named.tokens[:1], named.spans and named.spans[:1])
        return Features(tuple(maps), attention, self.tiles.image_size)


def _weighted(part: Tensor, down: Share, across: Share) -> Tensor:
    part = part[:, : len(down.weights), : len(across.weights)]  # what reaches over the edge is not of the image
    precise = torch.promote_types(part.dtype, torch.float32)
    weights = down.weights[:, None] * across.weights
    return part.to(precise) * weights.to(part.device, precise)


def _parts(features: Features, number: int, *, with_attention: bool) -> dict[Key, Tensor]:
    parts: dict[Key, Tensor] = {("map", level): one[number] for level, one in enumerate(features.maps)}
    if with_attention and features.attention is not None:
        for level in features.attention.levels:
            parts["attention", level] = features.attention.at(level)[number]
    return parts


def _encoded(backbone: "TADPBackbone", text: Text | None, tiles: TileGrid, *, truncate: bool) -> Conditioning | None:
    """One text or one a tile; None if the captioner that is attached describes the tiles."""
    text = current_text(backbone._text_key) if text is None else text
    if text is None and backbone._captioner is not None:
        return None
    if text is None:
        return backbone._text_or_default(None, 1)  # the default
    if not isinstance(text, Conditioning):
        text = check_captions(text)
    if len(text) not in (1, len(tiles)):
        what = "texts" if isinstance(text, Conditioning) else "captions"
        height, width = tiles.image_size
        raise CaptionError(
            f"one caption for the image, or one for each of its {tiles}; got {len(text)} {what}. "
            f"tadp.images.tiles.grid(({height}, {width}), tile_px=…, overlap_px=…) lists the tiles."
        )
    return text if isinstance(text, Conditioning) else backbone.encode_text(text, truncate=truncate)


def _check_texts_may_differ(backbone: "TADPBackbone") -> None:
    if backbone.attach_attention and not backbone.pool_attention:
        raise ValueError(
            "attention is attached by token, and a token is another word in each tile's own text. Pass one caption for "
            "all tiles, or build the backbone with pool_attention=[…], which attaches it by name, or with "
            "attach_attention=()."
        )
    if backbone.record_attention:
        raise ValueError(
            "attention by token cannot be put together where each tile has a text of its own. Pass one caption for all "
            "tiles, or build the backbone with record_attention=()."
        )
