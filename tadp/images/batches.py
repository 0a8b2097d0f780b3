"""Run a model on parts of images in batches, in the order in which their predictions are needed."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.errors import ImageError
from tadp.files.checks import check_whole

Place = tuple[int, int]


@runtime_checkable
class BatchedImage(Protocol):
    """An image with parts that a model has to see, such as its windows. A `Place` identifies a part.

    Attributes:
        image: The image, (1, C, H, W).
        text: The text that belongs to the image, which `Batches` passes on.
    """

    image: Tensor
    text: Any

    @property
    def kind(self) -> Hashable:
        """Parts of sources with the same kind can be predicted together: they have the same size and device."""
        ...

    def pixels(self, place: Place) -> Float[Tensor, "1 c h w"]:
        """One part of the image."""
        ...

    def keep(self, place: Place, values: Any) -> None:
        """Keep the prediction for a part."""
        ...


class Batches:
    """Predicts parts of images in batches: a part that is needed now, together with the next ones of its kind.

    Parts are only predicted early if they were announced with `expect`, so at most `batch_size` - 1 predictions of each
    kind wait to be read.

    Args:
        predict: A function from parts of images, (B, C, h, w), and the text of each to one prediction per part.
        batch_size: Largest number of parts per call of `predict`.

    Raises:
        TypeError: If `batch_size` is not an integer.
        ValueError: If `batch_size` is below 1.
    """

    def __init__(self, predict: Callable[[Float[Tensor, "b c h w"], list[Any]], Iterable[Any]], batch_size: int = 1):
        self.predict, self.batch_size = predict, check_whole(batch_size, name="batch_size")
        self._waiting: dict[Hashable, deque[tuple[BatchedImage, Place]]] = {}

    def expect(self, parts: Iterable[tuple[BatchedImage, Place]]) -> None:
        """Announce parts that will be read, each once and in this order."""
        if self.batch_size > 1:
            for part in parts:
                self._waiting.setdefault(part[0].kind, deque()).append(part)

    def read(self, source: BatchedImage, place: Place) -> None:
        """Predict a part of an image, and pass the prediction to `source.keep`.

        Raises:
            ImageError: If the image cannot be predicted. Other images in the batch are not affected.
        """
        part, waiting = (source, place), self._waiting.setdefault(source.kind, deque())
        if part in waiting:  # as a rule, it is the first
            waiting.remove(part)
        ahead = [waiting.popleft() for _ in range(min(self.batch_size - 1, len(waiting)))]
        if ahead:
            try:
                self._run([part, *ahead])
            except ImageError:
                for other in ahead:
                    with suppress(ImageError):  # it is raised when this part is read
                        self._run([other])
            else:
                return
        self._run_or_forget(part)

    def _run_or_forget(self, part: tuple[BatchedImage, Place]) -> None:
        """Predict a part alone; if it cannot be predicted, expect no more parts of its image."""
        try:
            self._run([part])
        except Exception:
            for kind, waiting in self._waiting.items():
                self._waiting[kind] = deque(other for other in waiting if other[0].image is not part[0].image)
            raise

    def _run(self, parts: list[tuple[BatchedImage, Place]]) -> None:
        pixels = [source.pixels(place) for source, place in parts]
        values = self.predict(
            pixels[0] if len(pixels) == 1 else torch.cat(pixels), [source.text for source, _ in parts]
        )
        for (source, place), value in zip(parts, values, strict=True):
            source.keep(place, value)
