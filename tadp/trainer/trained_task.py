"""What differs between the tasks that can be trained: model, loss, figures, pictures and recipes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64
from PIL import Image

from tadp import prompts
from tadp.backbone import TADPBackbone
from tadp.datasets import Sample
from tadp.datasets.batch import Batch
from tadp.datasets.readers.named import TaskName
from tadp.datasets.transforms.augmented import SampleSource
from tadp.drawing import SHORT_PX
from tadp.drawing.overlays import BACKGROUND
from tadp.images import to_pil
from tadp.images.reading import ImageLike
from tadp.tasks import PromptMode, TaskModel
from tadp.trainer.epoch_parts import Loss
from tadp.trainer.recipes import Recipe

OF_NAMES: tuple[PromptMode, ...] = ("class_names", "class_embeddings", "averaged_eos")


@dataclass(frozen=True)
class Judgement:
    """How good the prediction of one image is.

    Attributes:
        counts: How often the row's true label was predicted as the column's, (L, L), int64.
        score: A score, higher is better; NaN if the image has nothing to compare.
        text: The score in words.
    """

    counts: Int64[np.ndarray, "_l _l"]
    score: float
    text: str


class TrainedTask(ABC):
    """A task that can be trained.

    Attributes:
        name: The task's name.
        recipes: The recipes by name.
        backbone_options: Options of the backbone that differ from the defaults.
        kind: The class of its models.
        watched: The figure that decides which weights are best.
        higher_is_better: Whether a higher figure is better.
    """

    name: ClassVar[TaskName]
    recipes: ClassVar[Mapping[str, Recipe]]
    kind: ClassVar[type[TaskModel]]
    watched: ClassVar[str]
    higher_is_better: ClassVar[bool]
    backbone_options: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def build(
        self,
        backbone: TADPBackbone,
        data: Any,
        recipe: Recipe,
        *,
        text: PromptMode,
        own_class: bool = False,
        lora_rank: int = 16,
    ) -> TaskModel:
        """Build a model for a data set.

        Args:
            backbone: The backbone.
            data: The training data, with class names.
            recipe: The recipe.
            text: The prompt mode.
            own_class: Whether each image only gets the name of its own class, such as its room.
            lora_rank: Rank of the LoRA, if one is trained.
        """

    @abstractmethod
    def loss(self, model: Any) -> Loss:
        """The loss of a model: a function from the model, wrapped by accelerate, and a part to the part's mean loss."""

    def weight(self, batch: Batch) -> float:
        """What the loss of a batch averages over."""
        return len(batch)

    @abstractmethod
    def figures(self, result: Any) -> dict[str, float]:
        """The figures of a metric's result, by name."""

    @abstractmethod
    def baselines(self, train: Any, model: Any, *, seed: int) -> dict[str, Callable[[Sample], tuple[Any, Any]]]:
        """Return trivial predictions, with which a model is compared.

        Args:
            train: The training data.
            model: The model with which they are compared.
            seed: Seed of random predictions.

        Returns:
            By the name of the prediction, a function from a sample to the arguments of the metric's `update`.
        """

    @abstractmethod
    def labels(self, model: Any) -> list[str]:
        """The names of the rows and columns of the confusion matrix."""

    @abstractmethod
    def judge(self, sample: Sample, result: Any, model: Any) -> Judgement:
        """Compare the prediction of one image with its labels."""

    @abstractmethod
    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        """The ground truth of a sample, drawn."""

    def row(self, sample: Sample, result: Any, model: Any) -> list[Image.Image]:
        """Image, ground truth and prediction of a sample, drawn."""
        names = getattr(model, "class_names", ())
        return [enlarged(sample.image), self.truth(sample, names), result.plot()]


def prompted(names: Sequence[str], *, background: bool) -> list[str]:
    """The names in the text: those of the classes, with or without "background"."""
    classes = [name for name in names if name != BACKGROUND]
    return [BACKGROUND, *classes] if background else classes


def fit_length(backbone: TADPBackbone, names: Sequence[str], text: PromptMode) -> TADPBackbone:
    """A backbone whose head gets one attention channel per embedding of the text; captions and prompts have 77."""
    makers = {"class_embeddings": prompts.class_embeddings, "averaged_eos": prompts.averaged_eos}
    if text not in makers:
        return backbone
    return backbone.with_options(text_length=makers[text](names, backbone).embeddings.shape[1])


def enlarged(image: ImageLike) -> Image.Image:
    """An image, enlarged to the size of the pictures next to it."""
    picture = to_pil(image)
    scale = max(SHORT_PX / min(picture.size), 1)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.NEAREST)


def first_rows(
    task: TrainedTask, model: TaskModel, data: SampleSource, *, count: int, **test: Any
) -> list[list[Image.Image]]:
    """Draw image, ground truth and prediction of the first samples, one row per sample.

    Args:
        task: The task.
        model: The model that predicts.
        data: The data set.
        count: Number of samples.
        **test: Options of the model's `predict`.
    """
    predictor: Any = model
    shown = (data[index] for index in range(min(count, len(data))))
    return [
        task.row(sample, predictor.predict(sample.image, model.text.of_sample(sample), **test), model)
        for sample in shown
    ]
