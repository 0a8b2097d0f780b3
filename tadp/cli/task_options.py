"""The options that `tadp train`, `predict` and `evaluate` share, and how a task model is loaded."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.assets import TASK_MODELS
from tadp.cli.terminal import Dtype, echo, find_device, load_captioner, no_gc, silence, status

if TYPE_CHECKING:
    from tadp.tasks import TaskModel


class Task(StrEnum):
    """The task of a model."""

    segmentation = "segmentation"
    depth = "depth"
    detection = "detection"


_MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "ms"

TaskArgument = Annotated[Task, typer.Argument(metavar="TASK", help="segmentation, depth or detection.")]
OptionalTask = Annotated[
    Task | None,
    typer.Argument(metavar="[TASK]", help="segmentation, depth or detection.", show_default="that of the model"),
]
TaskModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A folder that save_pretrained wrote, or a hub id of such a model. The default comes with tadp and knows "
        "only rendered scenes.",
        show_default="tadp-tiny-TASK",
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        help="The base model of --model, if it is no longer where it was saved from.",
        show_default=False,
    ),
]
CaptionerOption = Annotated[
    str | None,
    typer.Option("--captioner", help="The captioner that describes the images.", show_default="the model's own"),
]
WindowPx = Annotated[
    int | None,
    typer.Option("--window-px", min=8, help="Side of the windows in pixels.", show_default="the model's own"),
]
StridePx = Annotated[
    int | None,
    typer.Option(
        "--stride-px", min=1, help="Distance between neighbouring windows in pixels.", show_default="the model's own"
    ),
]
ShortSidePx = Annotated[
    int | None,
    typer.Option(
        "--short-side-px",
        min=8,
        help="First resize images so that the shorter side has this length.",
        show_default="the model's own, or no resizing",
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Also predict the mirrored image, and average.")]
MultiScale = Annotated[
    bool, typer.Option("--multi-scale", help="Predict at six scales, 0.5 to 1.75, and average (segmentation only).")
]

WindowBatch = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        help="Number of windows that go through the model at once, and of images that are read ahead.",
    ),
]


def predict_options(
    task: Task,
    window_px: int | None,
    stride_px: int | None,
    short_side_px: int | None,
    flip: bool,
    multi_scale: bool,
) -> dict[str, Any]:
    """The options of a task's `predict`; options that the task does not have are wrong usage."""
    if task is Task.detection:
        unsupported = {
            "--stride-px": stride_px,
            "--short-side-px": short_side_px,
            "--flip": flip,
            "--multi-scale": multi_scale,
        }
        for option, value in unsupported.items():
            if value:
                raise typer.BadParameter("detection processes the whole image at once.", param_hint=option)
        return {} if window_px is None else {"image_px": window_px}
    if task is Task.depth and multi_scale:
        raise typer.BadParameter(
            "predicted depth depends on the scale of the image; use only --flip.", param_hint="--multi-scale"
        )
    options: dict[str, Any] = {
        "window_px": window_px,
        "stride_px": stride_px,
        "short_side_px": short_side_px,
        "flip": flip,
    }
    return options | ({"scales": _MULTI_SCALE} if multi_scale else {})


def check_stride(model: Any, options: dict[str, Any]) -> None:
    """Refuse a stride that would leave gaps between windows, before an image is read."""
    stride, window = options.get("stride_px"), options.get("window_px")
    if stride is not None and stride > (window or model.window_px):
        raise typer.BadParameter(
            f"the stride must be at most the side of a window, {window or model.window_px}, or there would be gaps.",
            param_hint="--stride-px",
        )


def find_task_model(task: Task | None, model: str | None, *, revision: str | None) -> tuple[Task, str]:
    """The task and the model of a command.

    Args:
        task: The task; None is that in the model's config.
        model: The model; None is the one for the task that comes with tadp.
        revision: Revision of the model; None is its default branch.

    Raises:
        ModelError: If the task is None, and the folder or repository has no task model.
    """
    from tadp.files.hub import HubOptions
    from tadp.tasks.model_kind import task_name

    if model is not None:
        return task or Task(task_name(model, HubOptions(revision=revision))), model
    if task is None:
        raise typer.BadParameter(
            "pass a model, or name the task (segmentation, depth or detection) to use the model that comes with tadp.",
            param_hint="--model",
        )
    model = TASK_MODELS[task.value]
    echo(f"model: {model}. It comes with tadp and knows only rendered scenes; --model chooses another.", err=True)
    return task, model


def load_task(
    task: Task, model: str, *, base_model: str | None, device: str | None, dtype: Dtype, revision: str | None
) -> "TaskModel":
    """A task model on its device.

    Raises:
        ModelError: If the model is for another task.
    """
    with no_gc():
        import torch

        from tadp.tasks.model_kind import KINDS

        silence()
    place = find_device(device)
    with status(f"loading {model}"):
        return KINDS[task.value].from_pretrained(
            model, base_model=base_model, dtype=getattr(torch, dtype.value), device=place, revision=revision
        )


def prepare_captions(model: "TaskModel", *, caption: bool, captioner: str | None, device: str | None) -> None:
    """Attach a captioner if the model needs one, and refuse captions if the model does not take them."""
    if model.prompt_mode != "captions":
        if captioner or (caption and not model.text.own_class):
            raise typer.BadParameter(
                f"this model's text is {model.text.summary}.", param_hint="--captioner" if captioner else "--caption"
            )
        return
    if caption:
        if captioner:
            raise typer.BadParameter("pass --caption or --captioner, not both.", param_hint="--caption")
        return
    if captioner is None and model.captioner is not None:  # it comes with tadp, and was attached with the model
        return
    name = captioner or model.captioner_name
    if name is None:
        raise typer.BadParameter(
            "this model needs captions and does not know its captioner. Pass --caption TEXT, or --captioner NAME, such "
            "as tadp-tiny or blip2.",
            param_hint="--captioner",
        )
    model.attach_captioner(load_captioner(name, device))
