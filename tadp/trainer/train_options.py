"""`TrainOptions`: the options of a training run, from which the command line is derived."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from tadp.datasets.readers.data_options import DataOptions
from tadp.errors import Argument, OptionError
from tadp.files.checks import check_choice, check_whole, is_finite_number
from tadp.files.schema import shown

TaskName = Literal["segmentation", "depth", "detection"]
TuneName = Literal["head", "lora", "all"]
Precision = Literal["float32", "bfloat16"]
TextName = Literal["captions", "class_names", "class_embeddings", "averaged_eos", "null"]


def _at_least(least: int, *, default: int | None = None) -> Any:
    """A field that holds a whole number, or None if that is its default."""
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """The options of a run of `train`: data, text, model, schedule and evaluation.

    There are also the options of `ReaderOptions` and `SplitOptions`, which say how a folder is read and split. The
    options of the command `tadp train` are generated from all these fields: their names, types, defaults and
    descriptions. None stands for the recipe's own value.

    Attributes:
        root: Folder of the data, if the data set is given by its name, such as voc.
        skip_broken: Take other images in place of training images that cannot be read, with a warning, instead of
            stopping.
        limit: Largest number of images in each part of the data, also in the last evaluation, drawn at random with the
            seed of the split; None is all.
        model: The base model: tadp-tiny, a folder in diffusers layout, or a hub id.
        untrained: Draw the weights of the U-Net at random. The figures of such a run show what the base model
            contributes.
        recipe: Name of the recipe; None is the recipe of a named data set, or else "small".
        text: The text of the model; None is captions if a captioner or a caption file is passed, otherwise the class
            names, and the empty prompt for depth.
        captioner: The model that describes the images: tadp-tiny, blip2, a folder or a hub id; None is tadp-tiny where
            the text is captions and tadp-tiny is the base model.
        captions: File of captions; the captioner adds those that are missing; None is captions.db in the output folder.
        tune: The part that trains: only the head, also a LoRA of the U-Net, or all of the U-Net; None is that of the
            recipe.
        lora_rank: Rank of the LoRA.
        head_options: Arguments of the head that differ from those of the recipe, such as {"channels": 64}; None is
            those of the recipe.
        max_depth_m: Largest depth in metres that a depth model can predict; None is the largest of the training images.
        crop: Side in pixels of the training images, and of the windows in which images are predicted; None is that of
            the recipe.
        steps: Number of optimizer steps; None is that of the recipe.
        epochs: Number of times that the run goes through the images, in place of steps; None counts steps.
        batch: Number of images per step; None is that of the recipe.
        lr: Highest learning rate of the head; None is that of the recipe.
        micro_batch: Number of images at a time, to save memory; their gradients are summed; None is all images of a
            step.
        precision: Precision of the training; weights and predictions are float32.
        gradient_checkpointing: Compute activations again in the backward pass, which takes less memory and more time.
        cache_latents: Encode images and captions only once, which is possible if nothing but a flip is random; VAE and
            text encoder are then not in memory during the steps; None is that of the recipe.
        ema: Decay of a moving average of the weights, such as 0.999, which becomes the model; 0 keeps no average.
        patience: Number of evaluations in a row without a better score after which the run stops early and keeps the
            best weights; 0 never stops early.
        evaluate_every: Number of steps between evaluations on held-out images, and 0 is only at the end; None is a
            tenth of the run, and only at the end of a run of fewer than 100 steps without patience.
        evaluate_images: Number of held-out images in these evaluations; the last evaluation takes all.
        evaluate_batch: Number of windows that go through the model at once in all evaluations.
        flip: Also predict the mirrored image in the last evaluation, and average.
        save_every: Number of steps between checkpoints.
        seed: Seed of all random numbers of the training. The same seed gives the same weights.
        workers: Number of processes that read images; 0 reads them in the training process.
        progress: Show the choices and the progress on the error stream.

    Raises:
        TypeError: If a number is not a whole number where it must be.
        OptionError: If an option is unknown or out of range.

    Example:
        >>> TrainOptions(steps=100, tune="head").batch is None
        True
        >>> TrainOptions(steps=0)
        Traceback (most recent call last):
        tadp.errors.OptionError: steps must be 1 or more; got 0.
    """

    root: Path | None = None
    skip_broken: bool = False
    limit: int | None = _at_least(2)
    model: str = "tadp-tiny"
    untrained: bool = False
    recipe: str | None = None
    text: TextName | None = None
    captioner: str | None = None
    captions: Path | None = None
    tune: TuneName | None = None
    lora_rank: int = _at_least(1, default=16)
    head_options: Mapping[str, Any] | None = None
    max_depth_m: float | None = None
    crop: int | None = _at_least(32)
    steps: int | None = _at_least(1)
    epochs: int | None = _at_least(1)
    batch: int | None = _at_least(1)
    lr: float | None = None
    micro_batch: int | None = _at_least(1)
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    cache_latents: bool | None = None
    ema: float = 0.0
    patience: int = _at_least(0, default=0)
    evaluate_every: int | None = _at_least(0)
    evaluate_images: int = _at_least(1, default=30)
    evaluate_batch: int = _at_least(1, default=1)
    flip: bool = False
    save_every: int = _at_least(1, default=100)
    seed: int = _at_least(0, default=0)
    workers: int = _at_least(0, default=0)
    progress: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least = getattr(self, option.name), option.metadata.get("least")
            if least is not None and not (value is None and option.default is None):
                object.__setattr__(self, option.name, check_whole(value, name=option.name, minimum=least))
        for name, choices in (("text", TextName), ("tune", TuneName)):
            if getattr(self, name) is not None:
                check_choice(getattr(self, name), get_args(choices), name=name)
        check_choice(self.precision, get_args(Precision), name="precision")
        for name in ("root", "captions"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.steps is not None and self.epochs is not None:
            raise OptionError("pass ", Argument("steps"), " or ", Argument("epochs"), ", not both.")
        for name in ("lr", "max_depth_m"):
            value = getattr(self, name)
            if value is not None and not (is_finite_number(value) and value > 0):
                raise OptionError(Argument(name), f" must be above 0; got {shown(value)}.")
        for name in ("ema", "fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(Argument(name), f" must be from 0 to below 1; got {getattr(self, name)}.")
