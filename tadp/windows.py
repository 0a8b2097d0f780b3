"""Predict a map for a large image by windows, so that memory is that of one window and of a strip of the result.

    logits = WindowedPrediction(model, image, window=512, stride=341, size=(1080, 1920))
    for top in range(0, 1080, 64):
        strip = logits.rows(top, min(top + 64, 1080))      # (K, 64, 1920)

Windows overlap; where they do, their values are averaged. The result may have another size than the image it was made
from, as in a test at several scales: it is resized as it is read.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Predict = Callable[[Float[Tensor, "1 c h w"]], Float[Tensor, "1 k h w"]]


class Window(NamedTuple):
    """A rectangle of an image in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side.

    Args:
        length: Of the image's side, in pixels.
        window: Of the window's side.
        stride: From one window to the next; the last is moved back so that it ends with the image.

    Raises:
        ValueError: If the stride is under 1, or leaves gaps.

    Source:
        The sliding test of mmsegmentation, with which the released code is tested at 512 and 341.

    Example:
        >>> window_starts(1000, 512, 341)
        [0, 341, 488]
        >>> window_starts(300, 512, 341)
        [0]
    """
    if not 1 <= stride <= window:
        raise ValueError(f"the stride of windows is 1 to the window's side, {window}; got {stride}.")
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(number * stride, max(length - window, 0)) for number in range(count)]


class WindowedPrediction:
    """The prediction for one image, made as it is read from top to bottom.

    Args:
        predict: From a window (1, C, h, w) to values (1, K, h, w).
        image: (1, C, H, W).
        window: Side of a window in pixels; an image that is smaller is one window. None: the whole image at once.
        stride: From one window to the next, in pixels.
        size: (height, width) of the result, to which values are resized bilinearly; the image's own by default.
        flipped: Predict the mirrored image, and mirror the result back.
    """

    def __init__(
        self,
        predict: Predict,
        image: Float[Tensor, "1 c h w"],
        *,
        window: int | None,
        stride: int | None = None,
        size: tuple[int, int] | None = None,
        flipped: bool = False,
    ):
        self.predict = predict
        self.image = image.flip(3) if flipped else image
        self.flipped = flipped
        self.height, self.width = image.shape[2:]
        self.size = size or (self.height, self.width)
        side = window or max(self.height, self.width)
        self.side = (min(side, self.height), min(side, self.width))
        self.tops = window_starts(self.height, side, stride or side)
        self.lefts = window_starts(self.width, side, stride or side)
        self._strips = self._finished_rows()
        self._kept: Tensor | None = None
        self._first = 0  # the image's row that `_kept` begins with

    def rows(self, start: int, stop: int) -> Float[Tensor, "k n w"]:
        """Rows `start` up to `stop` of the result; a later call must not begin before an earlier one."""
        upper, lower, weight = _neighbours(start, stop, self.size[0], self.height)
        kept = self._read(int(upper[0]), int(lower[-1]) + 1)
        upper, lower = (upper - self._first).to(kept.device), (lower - self._first).to(kept.device)
        weight = weight.to(kept.device, kept.dtype)[None, :, None]
        mixed = (
            kept[:, upper] * (1 - weight) + kept[:, lower] * weight if self.size[0] != self.height else kept[:, upper]
        )
        if self.size[1] != self.width:
            mixed = F.interpolate(mixed, size=self.size[1], mode="linear", align_corners=False)
        return mixed.flip(2) if self.flipped else mixed

    def _read(self, start: int, stop: int) -> Float[Tensor, "k n w"]:
        """Finished rows of the image that include start to stop; those before start are let go."""
        if start < self._first:
            raise ValueError(f"rows are read from top to bottom; row {start} was let go, the first is {self._first}.")
        kept = self._kept
        while kept is None or self._first + kept.shape[1] < stop:
            strip = next(self._strips)
            kept = strip if kept is None else torch.cat([kept, strip], dim=1)
            drop = min(start - self._first, kept.shape[1])
            kept, self._first = kept[:, drop:], self._first + drop
        drop = start - self._first
        self._kept, self._first = kept[:, drop:], start
        return self._kept

    def _finished_rows(self) -> Iterator[Float[Tensor, "k n w"]]:
        """The image's rows in strips, each when no further window touches it."""
        total = counts = None
        for number, top in enumerate(self.tops):
            for left in self.lefts:
                values = self.predict(self.image[:, :, top : top + self.side[0], left : left + self.side[1]])[0]
                if total is None or counts is None:
                    total = values.new_zeros(values.shape[0], self.side[0], self.width)
                    counts = values.new_zeros(1, self.side[0], self.width)
                total[:, :, left : left + self.side[1]] += values
                counts[:, :, left : left + self.side[1]] += 1
            if total is None or counts is None:
                return
            following = self.tops[number + 1] if number + 1 < len(self.tops) else self.height
            done = following - top
            yield total[:, :done] / counts[:, :done]
            total = torch.cat([total[:, done:], total.new_zeros(total.shape[0], done, self.width)], dim=1)
            counts = torch.cat([counts[:, done:], counts.new_zeros(1, done, self.width)], dim=1)


def _neighbours(start: int, stop: int, size: int, source: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of a map of `size` rows: the two source rows between which each lies, and the second's share."""
    rows = torch.arange(start, stop, dtype=torch.float64)
    place = ((rows + 0.5) * source / size - 0.5).clamp(0, source - 1)
    upper = place.floor().long()
    return upper, (upper + 1).clamp(max=source - 1), (place - upper).float()
