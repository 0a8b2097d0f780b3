"""One training run of a script: captions, the model, the loop, the figures and the report."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from tadp.tasks import TaskModel
from tadp.trainer.recipes import OF_DATA, Recipe
from tadp.trainer.run_data import Open, captioner_of, with_captions
from tadp.trainer.run_report import compare, measure_trivial
from tadp.trainer.trained_task import TrainedTask
from tadp.trainer.training_batches import TrainingData, load_backbone, training_data
from tadp.trainer.training_loop import LoopSettings, fit
from training.options import start
from training.report import finish, first_rows

FLAGS = ("text_adapter", "no_latent_scaling", "background", "own_class")


def train_and_report(task: TrainedTask, openers: tuple[Open, Open], options: argparse.Namespace) -> None:
    """Train a model on the first data set, measure it on the second, and write the report."""
    started, accelerator = time.perf_counter(), start(options)
    train, held_out = open_captioned(openers, options, accelerator)
    shared, metric = {"accelerator": accelerator, "most": options.evaluate_images}, recipe_of(task, options).metric
    model = build(task, backbone_of(task, options, accelerator), train, options)

    def score(model: Any) -> dict[str, float]:
        measured = compare(model, model.make_metric(**metric), held_out, **shared, **test_options(task, options))
        return task.figures(measured.compute())

    data = prepare(task, model, train, options, accelerator)
    model = train_model(task, model, data, options, accelerator, evaluate=score)
    trivial = task.baselines(train, model, seed=options.seed + accelerator.process_index)
    finish(
        model,
        figures=score(model),
        baselines={
            name: task.figures(measure_trivial(model.make_metric(**metric), predict, held_out, **shared).compute())
            for name, predict in trivial.items()
        },
        pictures=first_rows(task, model, held_out, count=options.sheet, **test_options(task, options)),
        train=train,
        held_out=held_out,
        started=started,
        options=options,
        accelerator=accelerator,
    )


def recipe_of(task: TrainedTask, options: argparse.Namespace) -> Recipe:
    """The recipe for the data set, with what the options change."""
    name = OF_DATA["voc-detection" if (task.name, options.data) == ("detection", "voc") else options.data]
    recipe = replace(task.recipes[name], schedule=options.schedule, tune=options.tune, background=options.background)
    head = {"head_options": options.head_options} if options.head_options else {}
    return replace(recipe, model={**recipe.model, **head})


def test_options(task: TrainedTask, options: argparse.Namespace) -> dict[str, Any]:
    """The options of `predict` in tests."""
    flip = {"flip": True} if options.flip_test and task.name != "detection" else {}
    return {**recipe_of(task, options).predict, **flip}


def open_captioned(openers: Any, options: argparse.Namespace, accelerator: Accelerator) -> list[Any]:
    """Open data sets with captions, if the text is captions. `captions_sha256` is set to their fingerprint."""
    if options.text != "captions":
        return [opener(None) for opener in openers]
    data, options.captions_sha256 = with_captions(
        openers, options.captions, captioner=options.captioner, accelerator=accelerator
    )
    return data


def backbone_of(task: TrainedTask, options: argparse.Namespace, accelerator: Accelerator) -> Any:
    """The backbone. With `--untrained`, its U-Net has random weights, drawn with the seed."""
    return load_backbone(
        options.model,
        accelerator,
        untrained_seed=options.seed if options.untrained else None,
        text_adapter=options.text_adapter,
        scale_latents=not options.no_latent_scaling,
        **task.backbone_options,
    )


def build(task: TrainedTask, backbone: Any, train: Any, options: argparse.Namespace) -> TaskModel:
    """The model for a data set."""
    recipe = recipe_of(task, options)
    model = task.build(backbone, train, recipe, text=options.text, own_class=options.own_class)
    model.captioner_name = captioner_of(options.captions) if options.text == "captions" else None
    return model


def prepare(
    task: TrainedTask,
    model: TaskModel,
    data: Any,
    options: argparse.Namespace,
    accelerator: Any,
    *,
    with_captions: bool = True,
) -> Any:
    """Augmented data. With `--cache-latents`, images are encoded once, and captions if `with_captions` is set."""
    recipe, folder = recipe_of(task, options), None
    if options.cache_latents:
        with_captions = with_captions and options.text == "captions"
        text = options.captions_sha256[:8] if with_captions else "images"
        folder = (options.cache or options.out) / f"encoded-{options.data}-{len(data)}-{text}"
        accelerator.print(f"encoded images{' and captions' * with_captions}: {folder}")
    transforms = recipe.transforms(recipe.crop_px)
    return training_data(
        model,
        data,
        transforms,
        seed=options.seed,
        folder=folder,
        accelerator=accelerator,
        with_captions=with_captions,
    )


def train_model(
    task: TrainedTask,
    model: TaskModel,
    data: TrainingData,
    options: argparse.Namespace,
    accelerator: Accelerator,
    evaluate: Callable[[TaskModel], dict[str, float]] | None = None,
) -> TaskModel:
    """Train, or continue where a run with the same folder stopped."""
    names = ("data", "model", "untrained", "cache_latents", "text", "captions_sha256")
    # flags are left out if they are not set, so that runs from before these options can continue
    identity = {name: getattr(options, name) for name in names} | {name: True for name in FLAGS if vars(options)[name]}
    settings = LoopSettings(
        output=options.out,
        schedule=options.schedule,
        **{name: getattr(options, name) for name in ("micro_batch", "seed", "workers", "gradient_checkpointing")},
        **{name: getattr(options, name) for name in ("log_every", "save_every", "evaluate_every")},
    )
    return fit(
        model,
        data,
        loss=task.loss(model),
        weight=task.weight,
        settings=settings,
        identity=identity,
        accelerator=accelerator,
        evaluate=evaluate,
    )
