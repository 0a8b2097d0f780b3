"""What a head sees of images by number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tadp.features import Features

from .rows import Run
from .texts import Said

if TYPE_CHECKING:
    from .fitting import Study

AT_ONCE = 16  # images of a pass that measures


class Look:
    """What the head sees of images by number, and the truth: from features that were kept, or by a pass of the model.

    Args:
        study: The data.
        run: Which row.
        model: Whose features.
        said: The text of both halves.
        kept: Maps of both halves, or None.
    """

    def __init__(self, study: "Study", run: Run, model: Any, said: dict[str, Said], kept: dict[str, Any] | None):
        self.study, self.run, self.model, self.said, self.kept = study, run, model, said, kept
        self.device, self.micro_batch = study.device, study.micro_batch

    def at(self, split: str, numbers: list[int], *, epoch: int = 0) -> tuple[Features, Tensor]:
        """Features and truth of some images."""
        half = self.study.halves[split]
        if self.kept is not None:
            maps, size = self.kept[split]
            seen = Features(tuple(one[numbers].float().to(self.device) for one in maps), None, size)
            return seen, half.truths[numbers].to(self.device)
        is_plain = self.run.row.unet == "plain"
        latents = half.latents(self.model.backbone) if half.is_rendered and not is_plain else None
        batch = half.batch(numbers, latents=latents, epoch=epoch, seed=self.run.seed)
        text = self.said[split].of(numbers) if self.said else None
        images = None if batch.images is None else batch.images.to(self.device)
        kept = None if batch.latents is None else batch.latents.to(self.device)
        return self.model.features(images, text, latents=kept), batch.truth.to(self.device)


def in_parts(count: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + AT_ONCE, count))) for start in range(0, count, AT_ONCE))
