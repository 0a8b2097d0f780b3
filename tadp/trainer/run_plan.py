"""What a run does: the recipe with the changes of the options, and the text of the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from inspect import Parameter, signature
from typing import Any

from tadp.datasets import RandomResize, Resize
from tadp.datasets.readers.data_options import DataOptions
from tadp.datasets.readers.named import DATASETS
from tadp.errors import Argument, OptionError
from tadp.files.checks import check_choice
from tadp.trainer.encoded_data import random_changes
from tadp.trainer.processes import Accelerator, split_text
from tadp.trainer.recipes import OF_DATA, Recipe
from tadp.trainer.run_data import DataParts, farthest
from tadp.trainer.train_options import TextName, TrainOptions
from tadp.trainer.trained_task import DepthTraining, DetectionTraining, SegmentationTraining, TrainedTask
from tadp.trainer.training_batches import check_encoded_once
from tadp.training.schedules import Schedule

TASKS: Mapping[str, TrainedTask] = {
    task.name: task for task in (SegmentationTraining(), DepthTraining(), DetectionTraining())
}
_TUNE = {"head": "nothing", "lora": "lora", "all": "all"}  # the words of the command, and those of the task models
_SHORT = 100  # steps; a shorter run is only evaluated at the end
# Options that change no weight
_FREE = (
    "root", "skip_broken", "limit", "captions", "captioner", "evaluate_images", "flip", "save_every", "workers",
    "progress", "evaluate_every", "evaluate_batch",
    *(option.name for option in fields(DataOptions)),  # the data are compared themselves
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        task: The task.
        recipe: The recipe, with the changes of the options.
        recipe_name: Name of the recipe.
        text: The prompt mode.
        captioner: The captioner that describes the images; None if the text is not captions, or all are in a file.
        evaluate_every: Number of steps between evaluations; 0 is only at the end.
        options: The options as they were passed.
    """

    task: TrainedTask
    recipe: Recipe
    recipe_name: str
    text: TextName
    captioner: str | None
    evaluate_every: int
    options: TrainOptions

    @property
    def choices(self) -> dict[str, Any]:
        """All choices that determine the weights, as JSON values. A run only continues with the same ones."""
        recipe, schedule = self.recipe, self.recipe.schedule
        own = {field.name: getattr(self.options, field.name) for field in fields(TrainOptions)}
        choices = {name: value for name, value in own.items() if name not in _FREE}
        if not choices["untrained"]:
            del choices["untrained"]  # so that runs from before this option can continue
        choices |= {
            "task": self.task.name,
            "recipe": self.recipe_name,
            "text": self.text,
            "tune": next(word for word, tune in _TUNE.items() if tune == recipe.tune),
            "crop": recipe.crop_px,
            "cache_latents": recipe.cache_latents,
            "augmentation": [str(transform) for transform in recipe.transforms(recipe.crop_px)],
            **recipe.model,
            **{name: value for name, value in vars(schedule).items() if name not in ("source", "note")},
        }
        choices |= {"evaluate_every": self.evaluate_every} if self.options.patience else {}
        return json.loads(json.dumps(choices, default=_plain))


def make_plan(task: str, data: DataParts, options: TrainOptions) -> Plan:
    """Choose everything that the options leave open.

    Args:
        task: Name of the task.
        data: The data.
        options: The options.

    Raises:
        OptionError: If there is no such recipe, or the captions have no captioner.
        TrainingError: If images are to be encoded once but the recipe changes them at random.
    """
    kind, name = TASKS[task], str(data.origin["data"])
    is_named = name in DATASETS
    recipe_name = options.recipe or (OF_DATA.get(name, "small") if is_named else "small")
    check_choice(recipe_name, tuple(kind.recipes), name="recipe")
    recipe = kind.recipes[recipe_name]
    crop = options.crop or recipe.crop_px
    changes: dict[str, Any] = {"crop_px": crop, "schedule": _schedule(recipe.schedule, options, images=len(data.train))}
    if options.tune is not None:
        changes["tune"] = _TUNE[options.tune]
    if options.cache_latents is not None:
        changes["cache_latents"] = options.cache_latents
    changes["model"] = dict(recipe.model)
    if recipe.short_side is not None:
        changes["model"]["short_side_px"] = round(crop * recipe.short_side)
    if options.head_options is not None:
        check_head_options(kind.heads[recipe.model.get("head", "")], options.head_options)
        changes["model"]["head_options"] = {**recipe.model.get("head_options", {}), **options.head_options}
    if task == "depth" and (options.max_depth_m is not None or "max_depth_m" not in recipe.model):
        changes["model"]["max_depth_m"] = options.max_depth_m or farthest(data.train)
    recipe = replace(recipe, **changes)
    if recipe.cache_latents:
        check_encoded_once(recipe.transforms(crop))
    text, captioner = _text(task, name, options)
    total = recipe.schedule.total_steps(len(data.train)) if len(data.train) >= recipe.schedule.batch else 0
    every = options.evaluate_every
    if every is None:  # the evaluations of a shorter run would cost more than its steps
        every = max(total // 10, 1) if total >= _SHORT or options.patience else 0
    if options.patience and not every:
        raise OptionError(
            Argument("patience"), " needs evaluations during the run; leave out ", Argument("evaluate_every", 0), "."
        )
    return Plan(kind, recipe, recipe_name, text, captioner, every, options)


def describe(plan: Plan, parts: DataParts, accelerator: Accelerator, *, micro_batch: int) -> list[str]:
    """The choices of a run, in lines."""
    recipe, choices = plan.recipe, plan.choices
    steps = recipe.schedule.total_steps(len(parts.train))
    text = plan.text if plan.text != "captions" else f"captions by {plan.captioner or plan.options.captions}"
    augmentation = ", ".join(type(transform).__name__ for transform in recipe.transforms(recipe.crop_px))
    count = min(plan.options.evaluate_images, len(parts.val))
    during = f"every {plan.evaluate_every} steps on {count} images, and " if plan.evaluate_every else ""
    unet = " with an untrained U-Net" if plan.options.untrained else ""
    return [
        f"data: {parts.name}; {len(parts.train)} images to train on, {len(parts.test)} held out ({parts.measured})",
        f"model: {plan.options.model}{unet}, trained: {choices['tune']}, text: {text}",
        f"recipe {plan.recipe_name}: {steps} steps of {recipe.schedule.batch} images of {recipe.crop_px} pixels, "
        f"learning rate {recipe.schedule.lr:g}, head {json.dumps(recipe.model.get('head_options', {}))}",
        f"augmentation: {augmentation}; {_encoding(plan)}",
        f"image size: {_image_size(plan)}",
        split_text(accelerator, micro_batch=micro_batch),
        f"evaluation: {during}at the end on all {len(parts.test)} held-out images",
    ]


def _encoding(plan: Plan) -> str:
    """How often images and captions are encoded, in words."""
    recipe, what = plan.recipe, "images and captions are" if plan.text == "captions" else "images are"
    if recipe.cache_latents:
        return f"{what} encoded once, and VAE and text encoder are not in memory during the steps"
    changes = random_changes(recipe.transforms(recipe.crop_px))
    return f"{what} encoded in every step" + (f", because {changes} change at random" if changes else "")


def _image_size(plan: Plan) -> str:
    """The size to which images are resized in prediction and in training, in words."""
    recipe = plan.recipe
    augmentation = {type(transform) for transform in recipe.transforms(recipe.crop_px)}
    if plan.task.name == "detection":
        side, pixels = "longer side" if recipe.model.get("keep_ratio", True) else "height and width", recipe.crop_px
    else:
        side, pixels = "shorter side", recipe.model.get("short_side_px")
    if pixels is None:
        return "that of the files, apart from the augmentation"
    before = " and in training" if Resize in augmentation else ""
    before = ", and in training before the random resize" if RandomResize in augmentation else before
    return f"{side} {pixels} pixels in prediction{before}; the option crop changes it"


def check_head_options(head: type, options: Mapping[str, Any]) -> None:
    """Refuse options that a head lacks.

    Raises:
        OptionError: If an option is unknown; the message lists those of the head.
    """
    known = head_options(head)
    for name in options:
        if name not in known:
            raise OptionError(
                Argument("head_options"), f": {head.__name__} has no option {name!r}; it has {', '.join(known)}."
            )


def head_options(head: type) -> dict[str, Any]:
    """The options of a head that a run can set, with their defaults."""
    arguments = signature(head).parameters.values()
    return {argument.name: argument.default for argument in arguments if argument.default is not Parameter.empty}


def changed(schedule: Schedule, **changes: Any) -> Schedule:
    """A schedule with some of its values changed; the lowest learning rate changes in proportion to the highest.

    Args:
        schedule: The schedule.
        **changes: New values by name; None keeps the value. Either `steps` or `epochs` replaces both.
    """
    new: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if "steps" in new or "epochs" in new:
        new = {"steps": None, "epochs": None} | new
    if "lr" in new and schedule.min_lr:
        new["min_lr"] = schedule.min_lr * new["lr"] / schedule.lr
    return replace(schedule, **new)


def _schedule(schedule: Schedule, options: TrainOptions, *, images: int) -> Schedule:
    """The schedule with the changes of the options. A small data set gets a smaller batch, a short run less warm-up."""
    batch = options.batch or min(schedule.batch, images)
    new = changed(schedule, steps=options.steps, epochs=options.epochs, batch=batch, lr=options.lr)
    if new == schedule or images < batch:
        return new
    return replace(new, warmup_steps=min(new.warmup_steps, new.total_steps(images) // 10))


def _text(task: str, data: str, options: TrainOptions) -> tuple[TextName, str | None]:
    """The prompt mode, and the captioner."""
    has_captions = options.captioner is not None or options.captions is not None or data == "scenes"
    text = options.text or ("captions" if has_captions else "null" if task == "depth" else "class_names")
    if text != "captions":
        if options.captioner is not None or options.captions is not None:
            name = "captioner" if options.captioner is not None else "captions"
            raise OptionError(Argument(name), f" is for the text 'captions'; got the text {text!r}.")
        return text, None
    captioner = options.captioner or ("tadp-tiny" if options.model == "tadp-tiny" else None)
    if captioner is None and options.captions is None:
        raise OptionError(
            "captions are written by a captioner; pass ",
            Argument("captioner", ...),
            ", such as blip2, or a file with ",
            Argument("captions", ...),
            ".",
        )
    return text, captioner


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
