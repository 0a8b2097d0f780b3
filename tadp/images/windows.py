"""Predict maps for a large image window by window, in the memory of one window, and assemble them in tiles.

    views = [WindowedPrediction(model, image, window=512, stride=341, flipped=flipped) for flipped in (False, True)]
    for rows, columns, values in mean_tiles(views):
        result[:, rows, columns] = values                  # (K, up to 256, up to 256)

Where windows overlap, their values are averaged, optionally with weights that fall towards a window's border, so that
no seams show. The image can be resized before it is divided into windows, for a prediction at several scales; the
result always has the image's original size.

Windows of several predictions, also for several images, can go through the model at once; see `tadp.images.batches`.

Three steps follow the prediction of a window: its values are enlarged to pixels, averaged where windows overlap, and
resized to the image's size. All three are linear, and separate for rows and columns. So each window adds R · values ·
Cᵀ to a tile, with a matrix R for rows and a matrix C for columns. In memory are only the values that the head returned:
for a segmentation head, one per 64 pixels.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.images.batches import Batches, Place

Predict = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b _k _h _w"]]
Number = TypeVar("Number", float, Tensor)
TILE_PX = 256


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """The first pixels of the windows along one side of an image, which together cover the whole side.

    Args:
        length: Length of the image's side in pixels.
        window: Length of a window's side in pixels. A shorter image gets one window.
        stride: Number of pixels from the start of one window to the start of the next, from 1 to `window`. The last
            window is moved back so that it ends with the image.

    Raises:
        ValueError: If the stride is under 1, or is larger than the window, which would leave gaps.

    Source:
        The sliding-window test of mmsegmentation, which the paper's released code uses with window 512 and stride 341.

    Example:
        >>> window_starts(1000, 512, 341)
        [0, 341, 488]
        >>> window_starts(300, 512, 341)
        [0]
    """
    if not 1 <= stride <= window:
        raise ValueError(f"the stride of windows must be from 1 to the window's side, {window}; got {stride}.")
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(number * stride, max(length - window, 0)) for number in range(count)]


class WindowedPrediction:
    """The prediction for one image at one scale, computed window by window when a tile of the result is read.

    Each window is predicted only once if the tiles are read row by row, as `mean_tiles` does.

    Args:
        predict: A function from windows, (B, C, h, w), to K values per cell, (B, K, ceil(h / cell_px),
            ceil(w / cell_px)), which is called with one window at a time; or the `Batches` through which windows of
            several predictions go.
        image: The image, (1, C, H, W), in [0, 1].
        window: Side of a window in pixels. A smaller image is predicted as a single window.
        stride: Number of pixels from the start of one window to the start of the next, from 1 to `window`; None is
            `window`, so that windows do not overlap.
        size: (height, width) in pixels to which the image is resized before prediction; None keeps its size. The result
            has the image's original size in either case.
        flipped: Whether to predict the mirrored image and mirror the result back.
        cell_px: Side in pixels of the square that one predicted value covers. The values are enlarged bilinearly.
        align_corners: Whether values are enlarged so that the centres of the corner cells stay in the corners of the
            window, as PyTorch's option of this name does.
        tapered: Whether the weight of a window falls linearly from its centre to its border where windows overlap, so
            that no seams show. If False, all windows count the same.
        text: The text of the image, which `Batches` passes on with each window; None if `predict` needs none.
        text_kind: A key of the text; only texts with equal keys are predicted together.

    Raises:
        ValueError: If the stride is under 1, or is larger than the window, which would leave gaps.
    """

    def __init__(
        self,
        predict: Predict | Batches,
        image: Float[Tensor, "1 c h w"],
        *,
        window: int,
        stride: int | None = None,
        size: tuple[int, int] | None = None,
        flipped: bool = False,
        cell_px: int = 1,
        align_corners: bool = False,
        tapered: bool = False,
        text: Any = None,
        text_kind: Hashable = None,
    ):
        self.batches = predict if isinstance(predict, Batches) else Batches(lambda pixels, _: predict(pixels))
        self.image, self.flipped, self.text, self._text_kind = image, flipped, text, text_kind
        self.size = (int(image.shape[2]), int(image.shape[3]))
        self.sides = tuple(
            _Side(seen, length, window, stride or window, cell_px, align_corners, tapered)
            for seen, length in zip(size or self.size, self.size, strict=True)
        )
        self._kept: dict[Place, Float[Tensor, "_k _h _w"]] = {}

    @property
    def kind(self) -> Hashable:
        """All windows of this image have this kind; see `BatchedImage`."""
        return (*(side.side for side in self.sides), self.image.device, self._text_kind)

    def places(self, rows: slice, columns: slice) -> Iterator[Place]:
        """The windows that `tile` needs for a part of the result."""
        return product(self.sides[0].windows(rows), self.sides[1].windows(self._mirrored(columns)))

    def tile(self, rows: slice, columns: slice) -> Float[Tensor, "k n m"]:
        """Read a part of the result, which has the image's own size. Both slices need a start and a stop."""
        if not (0 <= rows.start < rows.stop <= self.size[0] and 0 <= columns.start < columns.stop <= self.size[1]):
            raise ValueError(
                f"a tile must lie inside the image, {self.size} pixels; got rows {rows}, columns {columns}."
            )
        upright, across = self.sides[0].shares(rows), self.sides[1].shares(self._mirrored(columns))
        self._release({share.window for share in upright}, {share.window for share in across})
        total = torch.zeros(())
        for down in upright:
            for over in across:
                values = self._values((down.window, over.window))[:, down.cells, over.cells]
                added = down.weights @ values @ over.weights.T
                total = total.add_(added) if total.ndim else added
        return total.flip(2) if self.flipped else total

    def _mirrored(self, columns: slice) -> slice:
        """Columns of the result as columns of the image that is seen."""
        return slice(self.size[1] - columns.stop, self.size[1] - columns.start) if self.flipped else columns

    def _values(self, place: Place) -> Float[Tensor, "k h w"]:
        """The values of one window, on the CPU."""
        if place not in self._kept:
            self.batches.read(self, place)
        return self._kept[place]

    def keep(self, place: Place, values: Float[Tensor, "k h w"]) -> None:
        """Keep the values of one window until no more tiles need them."""
        self._kept[place] = values.to("cpu", torch.float32, copy=True)  # a view would keep the whole batch

    def pixels(self, place: Place) -> Float[Tensor, "1 c h w"]:
        """The part of the image that a window sees."""
        down, over = self.sides
        top, left = down.starts[place[0]], over.starts[place[1]]
        if self.flipped:
            left = over.seen - left - over.side
        part = self.image
        if (down.seen, over.seen) == self.size:
            part = part[:, :, top : top + down.side, left : left + over.side]
        else:
            tall = _linear(down.length, down.seen, top, top + down.side, antialias=True)
            wide = _linear(over.length, over.seen, left, left + over.side, antialias=True)
            part = tall.weights.float() @ part[:, :, tall.cells, wide.cells].float() @ wide.weights.float().T
            part = part.clamp(0, 1)
        return part.flip(3) if self.flipped else part

    def _release(self, rows: set[int], columns: set[int]) -> None:
        """Forget windows that neither this band of tiles nor a later one needs."""
        axis = band_axis(self.size)
        current = (rows, columns)[axis]
        from_right = self.flipped and axis == 1
        self._kept = {
            place: values
            for place, values in self._kept.items()
            if (place[1] <= max(current) if from_right else place[axis] >= min(current))
        }


def band_axis(size: tuple[int, int]) -> int:
    """The axis along which bands follow one another: the longer one, so that each band is as short as possible."""
    return 0 if size[0] >= size[1] else 1


def mean_tiles(
    views: Sequence[WindowedPrediction],
    *,
    finish: Callable[[Float[Tensor, "k n m"]], Float[Tensor, "k n m"]] = lambda values: values,
    tile_px: int = TILE_PX,
) -> Iterator[tuple[slice, slice, Float[Tensor, "k n m"]]]:
    """The mean of several predictions for one image, tile by tile.

    Args:
        views: Predictions for the same image, for example at several scales or mirrored.
        finish: A function that is applied to each prediction's values before the mean, such as a softmax. By default,
            the values do not change.
        tile_px: Side of a tile in pixels.

    Yields:
        For each tile, its range of rows, its range of columns, and its mean values, (K, rows, columns).
    """
    for rows, columns in _tiles(views[0].size, tile_px):
        total = finish(views[0].tile(rows, columns))
        for view in views[1:]:
            total = total + finish(view.tile(rows, columns))
        yield rows, columns, total / len(views)


def windows_in_order(
    views: Sequence[WindowedPrediction], *, tile_px: int = TILE_PX
) -> Iterator[tuple[WindowedPrediction, Place]]:
    """All windows of several predictions for one image, in the order in which `mean_tiles` needs them."""
    known: set[tuple[WindowedPrediction, Place]] = set()
    for rows, columns in _tiles(views[0].size, tile_px):
        for window in ((view, place) for view in views for place in view.places(rows, columns)):
            if window not in known:
                known.add(window)
                yield window


def _tiles(size: tuple[int, int], tile_px: int) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of the tiles of an image, band by band."""
    axis = band_axis(size)
    for along in range(0, size[axis], tile_px):
        for across in range(0, size[1 - axis], tile_px):
            place = (along, across) if axis == 0 else (across, along)
            rows, columns = (slice(at, min(at + tile_px, end)) for at, end in zip(place, size, strict=True))
            yield rows, columns


class _Weights(NamedTuple):
    """Weights that give each of n values as a mean of neighbouring cells."""

    cells: slice
    weights: Float[Tensor, "_n _cells"]


class _Share(NamedTuple):
    """The contribution of a window to a part of the result, along one side."""

    window: int
    cells: slice
    weights: Float[Tensor, "_n _cells"]


class _Side:
    """The windows along one side of an image.

    Args:
        seen: Length of the image's side in pixels after the image is resized for prediction.
        length: Length of the image's side in pixels before resizing, which is also its length in the result.
        window: Length of a window's side in pixels.
        stride: Number of pixels from the start of one window to the start of the next.
        cell_px: Side in pixels of the square that one predicted value covers.
        align_corners: How values are enlarged; see `WindowedPrediction`.
        tapered: Whether the weight of a window falls towards its border.
    """

    def __init__(
        self, seen: int, length: int, window: int, stride: int, cell_px: int, align_corners: bool, tapered: bool
    ):
        self.seen, self.length, self.cell_px, self.align_corners = seen, length, cell_px, align_corners
        self.side = min(window, seen)
        self.starts = window_starts(seen, window, stride)
        centers = torch.arange(self.side, dtype=torch.float64) + 0.5
        self.window_weights = centers.minimum(self.side - centers) if tapered else torch.ones_like(centers)
        self.total = torch.zeros(seen, dtype=torch.float64)
        for start in self.starts:
            self.total[start : start + self.side] += self.window_weights

    def windows(self, part: slice) -> list[int]:
        """The numbers of the windows that contribute to a part of the result."""
        first, last = (_center(float(at), self.seen, self.length) for at in (part.start, part.stop - 1))
        seen = _cells(first, last, 1.0, self.seen)
        return [k for k, start in enumerate(self.starts) if start < seen.stop and seen.start < start + self.side]

    def shares(self, part: slice) -> list[_Share]:
        """The windows that contribute to a part of the result, and their values' weights."""
        pixels = _linear(self.seen, self.length, part.start, part.stop)
        first, last = pixels.cells.start, pixels.cells.stop
        shares = []
        for number in self.windows(part):
            start = self.starts[number]
            low, high = max(first, start), min(last, start + self.side)
            cells = math.ceil(self.side / self.cell_px)
            whole = cells * self.cell_px
            enlarged = _linear(cells, whole, low - start, high - start, align_corners=self.align_corners)
            mean = enlarged.weights * self.window_weights[low - start : high - start, None] / self.total[low:high, None]
            weights = pixels.weights[:, low - first : high - first] @ mean
            shares.append(_Share(number, enlarged.cells, weights.float()))
        return shares


def _linear(
    source: int, size: int, start: int, stop: int, *, antialias: bool = False, align_corners: bool = False
) -> _Weights:
    """Rows `start` up to `stop` of the matrix that resizes `source` values to `size` bilinearly, as torch does."""
    reach = max(source / size, 1.0) if antialias else 1.0
    centers = _center(torch.arange(start, stop, dtype=torch.float64), source, size, align_corners)
    touched = _cells(float(centers[0]), float(centers[-1]), reach, source)
    cells = torch.arange(touched.start, touched.stop, dtype=torch.float64) + 0.5
    weights = (1 - (cells - centers[:, None]).abs() / reach).clamp(min=0)
    return _Weights(touched, weights / weights.sum(dim=1, keepdim=True))


def _center(place: Number, source: int, size: int, align_corners: bool = False) -> Number:
    """Where a pixel of the resized image lies in the image before, in pixels."""
    return place * (source - 1) / max(size - 1, 1) + 0.5 if align_corners else (place + 0.5) * (source / size)


def _cells(first: float, last: float, reach: float, source: int) -> slice:
    """The cells that are at most `reach` away from a range of places."""
    return slice(max(math.floor(first - reach), 0), min(math.ceil(last + reach), source))
