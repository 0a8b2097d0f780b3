"""Which tensors of an image's features are saved, and in what form, and how many bytes that takes."""

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.errors import ImageError, OutputError
from tadp.features import AttentionMaps, Features, Word
from tadp.files.checks import check_whole
from tadp.images.image_files import size_of

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
_RECORD_BYTES = 2000  # caption, tokens and words of an image, roughly
_OPENED = 256  # images that are opened to estimate the size of all results
_TOKENS = 77  # if the number of tokens is not known before the text


@dataclass(frozen=True)
class SavedTensors:
    """The form in which features are saved. The default saves everything as the backbone returns it.

    Attributes:
        names: Names (words, nouns or classes) over which the saved attention is averaged: one channel per name instead
            of one per token. Attention that is attached to the maps does not change; see the backbone's option
            `pool_attention` for that. Empty saves one channel per token.
        dtype: Data type of the saved tensors, such as `torch.float16`; None is that of the backbone.
        pool: Side of the squares of cells of which the mean is saved. 1, the default, saves every cell.
        grid: (height, width) in cells to which every map is reduced, by the mean over the cells in each of its parts.
            (1, 1) is the mean over the image. Smaller maps are enlarged. None keeps the size of each level.

    Raises:
        TypeError: If a number is not a whole number.
        ValueError: If a number is below 1, both `pool` and `grid` are set, or safetensors lacks the dtype.
    """

    names: Sequence[str] = ()
    dtype: torch.dtype | None = None
    pool: int = 1
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_whole(self.pool, name="pool", unit="cells")
        for side in self.grid or ():
            check_whole(side, name="a side of grid", unit="cells")
        if self.grid is not None and (self.pool > 1 or len(self.grid) != 2):
            raise ValueError(f"grid must be (height, width), without pool; got {self.grid} and pool {self.pool}.")
        if self.dtype is not None and self.dtype not in DTYPES.values():
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {str(self.dtype).removeprefix('torch.')}.")
        if isinstance(self.names, str):
            raise TypeError(f"names must be a list of names; got {self.names!r}. Pass [{self.names!r}].")

    def settings(self) -> dict[str, Any] | None:
        """The choices as JSON values; None if everything is saved as it is."""
        if self == SavedTensors():
            return None
        dtype = self.dtype and str(self.dtype).removeprefix("torch.")
        return {"names": list(self.names), "dtype": dtype, "pool": self.pool, "grid": self.grid and list(self.grid)}

    def prepared(self, features: Features, *, levels: Sequence[int]) -> Features:
        """Return the features of a batch in the form in which they are saved.

        Args:
            features: The features of a batch.
            levels: The levels whose maps are saved.
        """
        maps = tuple(self._resized(features.by_level[level]) for level in levels)
        attention = None if features.attention is None else self._attention(features.attention)
        cells = self._cells_covered(features.cells)
        return Features(maps, attention, features.image_size, levels=tuple(levels), cells=cells)

    def _attention(self, attention: AttentionMaps) -> AttentionMaps:
        if self.names:
            words = tuple(Word(name, number, number + 1, True) for number, name in enumerate(self.names))
            images = len(attention.tokens)
            attention = AttentionMaps(
                {level: attention.pool(self.names, level).maps for level in attention.levels},
                (tuple(self.names),) * images,
                (words,) * images,
                {level: self._pooled_heads(attention, level) for level in attention.head_maps},
                attention.cells,
            )
        return replace(
            attention,
            maps={level: self._resized(maps) for level, maps in attention.maps.items()},
            head_maps={level: self._resized(maps) for level, maps in attention.head_maps.items()},
            cells=self._cells_covered(attention.cells),
        )

    def _cells_covered(self, cells: Mapping[int, tuple[float, float]]) -> dict[int, tuple[float, float]]:
        pooled = {level: (rows / self.pool, columns / self.pool) for level, (rows, columns) in cells.items()}
        return {} if self.grid else pooled

    def _pooled_heads(self, attention: AttentionMaps, level: int) -> Tensor:
        heads = attention.heads(level).unbind(1)
        return torch.stack([replace(attention, maps={level: head}).pool(self.names, level).maps for head in heads], 1)

    def _resized(self, maps: Tensor) -> Tensor:
        """Maps, or maps per head with one more axis, in their saved size and dtype."""
        dtype = self.dtype or maps.dtype
        if self.grid is None and self.pool == 1:
            return maps.to(dtype)
        precise = maps.flatten(0, -4).to(torch.promote_types(maps.dtype, torch.float32))
        if self.grid is not None:
            small = F.adaptive_avg_pool2d(precise, self.grid)
        else:
            small = F.avg_pool2d(precise, self.pool, ceil_mode=True, count_include_pad=False)
        return small.unflatten(0, maps.shape[:-3]).to(dtype)

    def bytes_per_image(self, backbone: TADPBackbone, image_size: tuple[int, int], levels: Sequence[int]) -> int:
        """Return the size of an image's saved features, with about 2 kB for its caption, tokens and words.

        Args:
            backbone: The backbone that computes the features.
            image_size: (height, width) in pixels.
            levels: The levels whose maps are saved.
        """
        options = backbone.options
        channels = dict(zip(backbone.chosen_levels(), backbone.feature_info.channels, strict=True))
        values = Counter({level: channels[level] for level in levels})
        heads = _heads(backbone) if options.record_heads else {}
        for level in options.attention_levels:
            values[level] += (len(self.names) or options.text_length or _TOKENS) * (1 + heads.get(level, 0))
        size = (self.dtype or backbone.dtype).itemsize
        return _RECORD_BYTES + size * sum(
            count * self._cells(image_size, backbone.strides[k]) for k, count in values.items()
        )

    def _cells(self, image_size: tuple[int, int], stride: int) -> int:
        return math.prod(self.grid or (math.ceil(math.ceil(side / stride) / self.pool) for side in image_size))


def _heads(backbone: TADPBackbone) -> dict[int, int]:
    """The number of attention heads of each level."""
    heads: Counter[int] = Counter()
    for name, level in backbone.layout.attention_layers.items():
        heads[level] += int(cast(Any, backbone.unet.get_submodule(name)).heads)
    return heads


def expected_bytes(
    images: Sequence[Path],
    saved: SavedTensors,
    *,
    backbone: TADPBackbone,
    levels: Sequence[int] | None = None,
    max_side_px: int | None = None,
) -> int:
    """Estimate the size of the results of images. Of many images, only some are opened to read their size.

    Args:
        images: The images.
        saved: The form in which the tensors are saved.
        backbone: The backbone that computes them.
        levels: The levels whose maps are saved; None is all levels.
        max_side_px: Largest length of an image's longer side in pixels, to which larger images are shrunk.
    """
    sizes = []
    for image in images[:: math.ceil(len(images) / _OPENED) or 1]:
        with suppress(ImageError, OSError):
            sizes.append(size_of(image))
    total = 0
    for (height, width), count in Counter(sizes).items():
        scale = min(1.0, (max_side_px or math.inf) / max(height, width))
        size = max(round(height * scale), 8), max(round(width * scale), 8)
        total += count * saved.bytes_per_image(backbone, size, backbone.chosen_levels(levels))
    return round(total * len(images) / max(len(sizes), 1))


def check_space(folder: Path, expected: int) -> None:
    """Check that the results fit on the disk.

    Args:
        folder: A folder on the disk.
        expected: Size of the results in bytes.

    Raises:
        OutputError: If there is too little free space.
    """
    free = shutil.disk_usage(folder).free
    if expected > free:
        raise OutputError(
            f"the results need about {readable_bytes(expected)}, but {folder} has only {readable_bytes(free)} free. "
            "Save fewer levels, a smaller dtype, or a fixed grid, or choose another disk."
        )


def readable_bytes(size: float) -> str:
    """A number of bytes as text, such as "1.23 GB".

    Example:
        >>> readable_bytes(1_234_000_000), readable_bytes(999)
        ('1.23 GB', '999 bytes')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    power = min(int(math.log10(1.0005 * size) / 3), 5)
    return f"{size / 1000**power:.3g} {'kMGTP'[power - 1]}B"


def tensors_of(features: Features, number: int) -> dict[str, Tensor]:
    """The tensors of one image of a batch by name: `map.<level>`, `attention.<level>` and `heads.<level>`."""
    tensors = {f"map.{level}": level_map[number] for level, level_map in features.by_level.items()}
    if features.attention is not None:
        tensors |= {f"attention.{level}": features.attention.at(level)[number] for level in features.attention.levels}
        tensors |= {f"heads.{level}": heads[number] for level, heads in features.attention.head_maps.items()}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
