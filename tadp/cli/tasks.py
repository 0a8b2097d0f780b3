"""`tadp predict`, `tadp evaluate`: a trained task model at work."""

import json
import math
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.cli.app import Caption, Device, DtypeOption, Images, Overwrite, Revision, command
from tadp.cli.terminal import Dtype, fail, find_device, load_captioner, progress, silence, status, tell_of_tiny
from tadp.errors import CaptionError, ImageError, TADPError

if TYPE_CHECKING:
    from tadp.tasks import TaskModel


class Task(StrEnum):
    """What is predicted."""

    segmentation = "segmentation"
    depth = "depth"
    detection = "detection"


_MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "ms"

TaskArgument = Annotated[Task, typer.Argument(metavar="TASK", help="segmentation, depth or detection.")]
TaskModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A folder that save_pretrained wrote, or a hub id of such a model.")
]
BaseModel = Annotated[
    str | None,
    typer.Option("--base-model", help="What it was trained on, if it is elsewhere now.", show_default=False),
]
CaptionerOption = Annotated[
    str | None,
    typer.Option("--captioner", help="Who describes the images; the model's own by default.", show_default=False),
]
WindowPx = Annotated[
    int | None,
    typer.Option("--window-px", min=8, help="Side of the windows.", show_default="the model's own"),
]
StridePx = Annotated[
    int | None, typer.Option("--stride-px", min=1, help="From window to window.", show_default="the model's own")
]
ShortSidePx = Annotated[
    int | None,
    typer.Option("--short-side-px", min=8, help="Bring the shorter side to this before.", show_default="as it is"),
]
Flip = Annotated[bool, typer.Option("--flip", help="Predict the mirrored image too, and average.")]
MultiScale = Annotated[
    bool, typer.Option("--multi-scale", help="Predict at six sizes, 0.5 to 1.75, and average (segmentation).")
]


@command(
    "tadp predict segmentation photo.jpg --model my-model",
    "tadp predict depth photos -o depth --model my-model --caption 'a kitchen'",
    "tadp predict detection photo.jpg --model my-model --captioner Salesforce/blip2-opt-2.7b",
)
def predict(
    task: TaskArgument,
    images: Images,
    model: TaskModelOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(),
    caption: Caption = None,
    captioner: CaptionerOption = None,
    base_model: BaseModel = None,
    window_px: WindowPx = None,
    stride_px: StridePx = None,
    short_side_px: ShortSidePx = None,
    flip: Flip = False,
    multi_scale: MultiScale = False,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict classes, depth or objects, and write a picture and data.

    For photo.jpg it writes photo.TASK.plot.png to look at, and the data: photo.segmentation.png (grey values are
    classes), photo.depth.png (16-bit millimetres), each with a small .json, or photo.detection.json. Images whose data
    is there are skipped. One unreadable image is named and the others go through.
    """
    options = _predict_options(task, window_px, stride_px, short_side_px, flip, multi_scale)
    names, failed = _result_names(images)
    todo = {image: output / f"{name}.{task.value}" for name, image in names.items()}
    if not overwrite:
        done = [image for image, target in todo.items() if Path(f"{target}.json").exists()]
        todo = {image: target for image, target in todo.items() if image not in done}
        if done:
            typer.echo(f"{len(done)} already done")
    if not todo:
        raise typer.Exit(1 if failed else 0)
    predictor = load_task(task, model, base_model=base_model, device=device, dtype=dtype, revision=revision)
    _check_stride(predictor, options)
    prepare_captions(predictor, caption=caption is not None, captioner=captioner, device=device)
    with progress() as bar:
        for image, target in bar.track(list(todo.items()), description="predicting"):
            try:
                result: Any = predictor.predict(image, caption, **options)
                # the data last, and of it the .json, by which an image counts as done
                written = [_save_plot(result, Path(f"{target}.plot.png")), *result.save(target)]
            except (ImageError, CaptionError) as error:
                fail(error)
                failed += 1
                continue
            typer.echo(f"{image}: {_summary(result)} → {', '.join(str(path) for path in written)}")
    if predictor.captioner is not None and caption is None:
        tell_of_tiny(predictor.captioner.name)
    if failed:
        raise typer.Exit(1)


@command(
    "tadp evaluate segmentation --model my-model --data voc --root VOCdevkit/VOC2012 --captions captions.db",
    "tadp evaluate segmentation --model my-model --data ade20k --root ADEChallengeData2016 --multi-scale --flip",
    "tadp evaluate depth --model my-model --data nyu --root nyu_depth_v2 --crop eigen --flip",
    "tadp evaluate detection --model my-model --data scenes --count 200",
)
def evaluate(
    task: TaskArgument,
    model: TaskModelOption,
    data: Annotated[str, typer.Option("--data", help="scenes, voc, voc-detection, ade20k, nyu, cityscapes, …")],
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.", show_default=False)] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which images.", show_default="the one to test on")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Only the first so many images.", show_default="all")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="Caption file by image id, from tadp caption.", show_default=False)
    ] = None,
    captioner: CaptionerOption = None,
    base_model: BaseModel = None,
    crop: Annotated[
        str | None, typer.Option("--crop", help="eigen or garg: where depth is compared.", show_default="everywhere")
    ] = None,
    rule: Annotated[str, typer.Option("--rule", help="voc07, voc12 or coco: how detections are scored.")] = "voc07",
    window_px: WindowPx = None,
    stride_px: StridePx = None,
    short_side_px: ShortSidePx = None,
    flip: Flip = False,
    multi_scale: MultiScale = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file of the figures.", show_default=False)
    ] = None,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
) -> None:
    """Measure a task model on a data set and print its figures.

    Captions come from --captions, or else from the captioner, image by image. Rendered scenes have their own, of what
    is truly there; --captioner takes a captioner's in their place.
    """
    from tadp.datasets.named import DATASETS, open_dataset
    from tadp.tasks import evaluate as measure

    if data not in DATASETS:
        raise typer.BadParameter(f"unknown data set {data!r}; known: {', '.join(DATASETS)}.", param_hint="--data")
    if task.value not in DATASETS[data].tasks:
        raise typer.BadParameter(
            f"{data} has labels for {', '.join(DATASETS[data].tasks)}, not for {task.value}.", param_hint="--data"
        )
    if root is None and data != "scenes":
        raise typer.BadParameter(f"{data} is read from a folder.", param_hint="--root")
    options = _predict_options(task, window_px, stride_px, short_side_px, flip, multi_scale)
    predictor: Any = load_task(task, model, base_model=base_model, device=device, dtype=dtype, revision=revision)
    _check_stride(predictor, options)
    # the detection sets give the labels of any model that knows their classes
    labels = {"class_names": predictor.class_names} if task is Task.detection and data != "scenes" else {}
    try:
        samples = open_dataset(data, root, split=split, captions=captions, **labels)
    except ValueError as error:
        if isinstance(error, TADPError):
            raise
        raise typer.BadParameter(str(error), param_hint="--data") from error
    _check_classes(task, predictor, samples, data)
    metric = _metric(task, predictor, crop=crop, rule=rule)
    described = captioner is not None or (captions is None and data != "scenes")
    if described:
        prepare_captions(predictor, caption=False, captioner=captioner, device=device)
    total = len(samples) if count is None else min(count, len(samples))
    with progress() as bar:
        shown = bar.track((samples[k] for k in range(total)), total=total, description="evaluating")
        result = measure(predictor, shown, metric=metric, captions="captioner" if described else "data", **options)
    typer.echo(str(result))
    if output is not None:
        _save_figures(result, output)
        typer.echo(f"wrote {output}")


def _check_classes(task: Task, model: Any, samples: Any, data: str) -> None:
    """Refuse a data set whose labels mean something else than the model's."""
    if task is Task.depth:
        return
    theirs = tuple(samples.box_class_names if task is Task.detection else samples.class_names)
    if theirs == model.class_names:
        return
    raise typer.BadParameter(
        f"{data} has {len(theirs)} classes ({', '.join(theirs[:4])}, …), the model {len(model.class_names)} "
        f"({', '.join(model.class_names[:4])}, …); they must be the same, in the same order.",
        param_hint="--data",
    )


def _metric(task: Task, model: Any, *, crop: str | None, rule: str) -> Any:
    from tadp.metrics import COCODetection, DepthMetrics, VOCDetection
    from tadp.tasks import default_metric

    if task is Task.depth:
        if crop not in (None, "eigen", "garg"):
            raise typer.BadParameter(f"the crops are eigen and garg; got {crop!r}.", param_hint="--crop")
        return DepthMetrics(max_depth_m=model.max_depth_m, crop=crop)  # pyright: ignore[reportArgumentType]
    if task is Task.detection:
        if rule == "coco":
            return COCODetection(model.class_names)
        if rule not in ("voc07", "voc12"):
            raise typer.BadParameter(f"the rules are voc07, voc12 and coco; got {rule!r}.", param_hint="--rule")
        return VOCDetection(model.class_names, rule=rule)
    return default_metric(model)


def _save_figures(result: Any, target: Path) -> None:
    from tadp.files import replace_file

    with replace_file(target) as part:
        part.write_text(json.dumps(_plain(asdict(result)), indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """For JSON, which has no nan."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _result_names(images: list[str]) -> tuple[dict[str, Path], int]:
    """For each result's name its image, and how many arguments led to none.

    A name depends on its own argument alone: "rex" for photos/rex.jpg, "pets/rex" for what is below a folder.
    """
    from tadp.extract import output_names

    names: dict[str, Path] = {}
    failed = 0
    for argument in images:
        try:
            found = output_names([argument])
        except ImageError as error:
            fail(error)
            failed += 1
            continue
        for image, name in found.items():
            if names.get(name, image) != image:
                raise typer.BadParameter(
                    f"{names[name]} and {image} would both be written as {name}; predict them into two folders.",
                    param_hint="IMAGES",
                )
            names[name] = image
    return names, failed


def _predict_options(
    task: Task,
    window_px: int | None,
    stride_px: int | None,
    short_side_px: int | None,
    flip: bool,
    multi_scale: bool,
) -> dict[str, Any]:
    """The options of a task's `predict`; those it has not are wrong usage."""
    if task is Task.detection:
        given = {
            "--stride-px": stride_px,
            "--short-side-px": short_side_px,
            "--flip": flip,
            "--multi-scale": multi_scale,
        }
        for option, value in given.items():
            if value:
                raise typer.BadParameter("detection sees the whole image at once.", param_hint=option)
        return {} if window_px is None else {"image_px": window_px}
    if task is Task.depth and multi_scale:
        raise typer.BadParameter("depth depends on the size of things; use --flip.", param_hint="--multi-scale")
    options: dict[str, Any] = {
        "window_px": window_px,
        "stride_px": stride_px,
        "short_side_px": short_side_px,
        "flip": flip,
    }
    return options | ({"scales": _MULTI_SCALE} if multi_scale else {})


def _check_stride(model: Any, options: dict[str, Any]) -> None:
    """Refuse windows with gaps between them before an image is read."""
    stride, window = options.get("stride_px"), options.get("window_px")
    if stride is not None and stride > (window or model.window_px):
        raise typer.BadParameter(
            f"at most the side of a window, {window or model.window_px}, or there would be gaps.",
            param_hint="--stride-px",
        )


def load_task(
    task: Task, model: str, *, base_model: str | None, device: str | None, dtype: Dtype, revision: str | None
) -> "TaskModel":
    """A task model on its device.

    Raises:
        ModelError: If it is a model of another task.
    """
    import torch

    from tadp import tasks

    kinds: dict[Task, type[TaskModel]] = {
        Task.segmentation: tasks.TADPForSemanticSegmentation,
        Task.depth: tasks.TADPForDepthEstimation,
        Task.detection: tasks.TADPForObjectDetection,
    }
    silence()
    place = find_device(device)
    with status(f"loading {model}"):
        return kinds[task].from_pretrained(
            model, base_model=base_model, dtype=getattr(torch, dtype.value), device=place, revision=revision
        )


def prepare_captions(model: "TaskModel", *, caption: bool, captioner: str | None, device: str | None) -> None:
    """Attach a captioner where the model needs one, and refuse words where it takes none."""
    if model.prompt_mode != "captions":
        if caption or captioner:
            raise typer.BadParameter(
                f"this model's text is {model.prompt_mode!r}, the same for all images.",
                param_hint="--caption" if caption else "--captioner",
            )
        return
    if caption:
        if captioner:
            raise typer.BadParameter("give --caption or --captioner, not both.", param_hint="--caption")
        return
    name = captioner or model.captioner_name
    if name is None:
        raise typer.BadParameter(
            "this model wants captions and does not know its captioner. Pass --caption TEXT, or --captioner NAME such "
            "as tadp-tiny or Salesforce/blip2-opt-2.7b.",
            param_hint="--captioner",
        )
    model.attach_captioner(load_captioner(name, device))


def _summary(result: Any) -> str:
    return repr(result).partition("(")[2].removesuffix(")")


def _save_plot(result: Any, target: Path) -> Path:
    from tadp.files import replace_file

    with replace_file(target) as part:
        result.plot().save(part, format="PNG")
    return target
