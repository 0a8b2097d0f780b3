"""The inputs of a head: features of images, by number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tadp.features import Features

from .rows import Run
from .texts import ImageTexts

if TYPE_CHECKING:
    from .fitting import Study

AT_ONCE = 16  # images per pass without training


class HeadInputs:
    """Features and ground truth of images by number. Features are either kept ones or come from a pass of the model.

    Args:
        study: The data.
        run: The run, for its row and its seed.
        model: The model that computes the features.
        texts: Texts of both halves of the data; empty if the features are kept.
        kept: Feature maps of both halves of the data; None to run the model.
    """

    def __init__(self, study: "Study", run: Run, model: Any, texts: dict[str, ImageTexts], kept: dict[str, Any] | None):
        self.study, self.run, self.model, self.texts, self.kept = study, run, model, texts, kept
        self.device, self.micro_batch = study.device, study.micro_batch

    def of(self, split: str, numbers: list[int], *, epoch: int = 0) -> tuple[Features, Tensor]:
        """Features and ground truth of some images."""
        half = self.study.halves[split]
        if self.kept is not None:
            maps, size = self.kept[split]
            features = Features(tuple(level[numbers].float().to(self.device) for level in maps), None, size)
            return features, half.truths[numbers].to(self.device)
        is_plain = self.run.row.unet == "plain"
        latents = half.latents(self.model.backbone) if half.is_rendered and not is_plain else None
        batch = half.batch(numbers, latents=latents, epoch=epoch, seed=self.run.seed)
        text = self.texts[split].of(numbers) if self.texts else None
        images = None if batch.images is None else batch.images.to(self.device)
        latents = None if batch.latents is None else batch.latents.to(self.device)
        return self.model.features(images, text, latents=latents), batch.truth.to(self.device)


def in_parts(count: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + AT_ONCE, count))) for start in range(0, count, AT_ONCE))
