"""`tadp train`: train a model on a data set."""

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from tadp.cli.app import command
from tadp.cli.field_options import field_option, field_texts
from tadp.cli.task_options import TaskArgument
from tadp.cli.terminal import silence, wrong_usage
from tadp.trainer.train_options import TrainOptions

Data = Annotated[str, typer.Option("--data", help="The folder of a data set, or the name of one.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model, the report and checkpoints.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Time three steps, print what the run would cost, and stop.")]


def train_parameters() -> list[inspect.Parameter]:
    """The options that come from the fields of `TrainOptions`, as parameters for typer."""
    texts, keyword = field_texts(TrainOptions), inspect.Parameter.KEYWORD_ONLY
    parameters = []
    for option in fields(TrainOptions):
        if option.name == "progress":
            continue
        annotation, default = field_option(option, texts[option.name], option.default, kind=_kind(option.type))
        parameters.append(inspect.Parameter(option.name, keyword, default=default, annotation=annotation))
    return parameters


def _kind(annotation: Any) -> Any:
    """The type of an option on the command line: choices are names, and mappings and lists are text."""
    members = get_args(annotation)
    literal = next((part for part in (annotation, *members) if get_origin(part) is Literal), None)
    if literal is not None:
        names: Any = StrEnum("Choice", {name: name for name in get_args(literal)})
        return names | None if type(None) in members else names
    return str | None if any(get_origin(part) in (Mapping, Sequence) for part in members) else annotation


def _value(name: str, value: Any) -> Any:
    """The value of an option as `TrainOptions` takes it."""
    if name == "class_names" and value is not None:
        return [word.strip() for word in value.split(",")]
    if name == "labels" and value is not None:
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(old.strip().isdecimal() and new.strip().isdecimal() for old, _, new in pairs):
            raise typer.BadParameter(f"labels are written as 11=255,12=0; got {value!r}.", param_hint="--labels")
        return {int(old): int(new) for old, _, new in pairs}
    if name == "head_options" and value is not None:
        try:
            options = json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"this is not JSON: {error}.", param_hint="--head-options") from error
        if not isinstance(options, dict):
            raise typer.BadParameter('options are written as {"channels": 64}.', param_hint="--head-options")
        return options
    return value.value if isinstance(value, StrEnum) else value


def _with_fields(function: Callable[..., None]) -> Callable[..., None]:
    """Replace `**options` of a command by one option per field."""
    signature = inspect.signature(function)
    *own, _ = signature.parameters.values()
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    function.__signature__ = signature.replace(parameters=[*own, *train_parameters()])  # pyright: ignore[reportFunctionMemberAccess]
    return function


@command(
    "tadp train segmentation --data export -o run --dry-run",
    "tadp train segmentation --data export -o run",
    "tadp train detection --data export -o run --captioner blip2 --tune lora",
    "tadp train depth --data nyu --root nyu_depth_v2 -o run --recipe nyu-1-epoch",
)
@_with_fields
def train(task: TaskArgument, data: Data, output: Output, dry_run: DryRun = False, **options: Any) -> None:
    """Train a model on labelled images, and measure it on held-out ones.

    The folder of --data may be an export of a labelling tool; its layout is recognised. If it has no split of its own,
    a fifth of the images is held out; see --fraction and --group.

    The output folder gets the model, which "tadp predict --model" and from_pretrained load, and report.md: the figures,
    curves, the score of each class, a confusion matrix, the worst images, and how it was made. If the command is
    stopped, the same command continues it. On a terminal it shows a bar, and elsewhere a line per minute.

    --head-options takes the options of the task's head. segmentation: fpn_channels, channels, dropout, norm. depth:
    channels, deconv_channels, norm. detection: channels, hidden_channels, anchor_sizes, aspect_ratios, score_threshold,
    nms_iou, max_detections, max_proposals, samples_per_image. Options that are not passed keep the recipe's values.
    """
    from tadp.trainer import estimate
    from tadp.trainer import train as run_training

    silence()
    chosen = {name: _value(name, value) for name, value in options.items()}
    with wrong_usage():
        if dry_run:
            typer.echo(str(estimate(task.value, data, output, **chosen)))
            return
        run = run_training(task.value, data, output, **chosen)
    if os.environ.get("RANK", "0") != "0":  # another process of torch.distributed.run prints the same
        return
    typer.echo(str(run))
    typer.echo(f"the model is in {output}; {run.report} has the details")
