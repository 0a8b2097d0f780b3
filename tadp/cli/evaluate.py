"""`tadp evaluate`: measure a trained task model."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tadp.cli.app import Device, DtypeOption, Revision, command
from tadp.cli.field_options import field_values, with_fields
from tadp.cli.own_data import is_folder, own_data, run_of
from tadp.cli.task_options import (
    BaseModel,
    CaptionerOption,
    Flip,
    MultiScale,
    OptionalTask,
    ShortSidePx,
    StridePx,
    Task,
    TaskModelOption,
    WindowBatch,
    WindowPx,
    check_stride,
    find_task_model,
    load_task,
    predict_options,
    prepare_captions,
)
from tadp.cli.terminal import Dtype, echo, wrong_usage
from tadp.datasets.readers.data_options import DataOptions
from tadp.errors import Argument, OptionError, TADPError

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The folder of a data set of your own, or a name: scenes, voc, voc-detection, ade20k, nyu, cityscapes, "
        "dark-zurich, nighttime-driving, watercolor2k or comic2k.",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="A folder of your own images, in place of --data; or that of a COCO json in --data.",
        show_default=False,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="The folder of masks of --images or of --data, PNG, TIFF or PGM files with the same names.",
        show_default=False,
    ),
]
Root = Annotated[Path | None, typer.Option("--root", help="Folder of the data set.", show_default=False)]
Split = Annotated[
    str | None, typer.Option("--split", help="Part of the data set; all is all images.", show_default="the test split")
]
Count = Annotated[
    int | None, typer.Option("--count", min=1, help="Number of images, from the first.", show_default="all")
]
Captions = Annotated[
    Path | None, typer.Option("--captions", help="Caption file written by tadp caption.", show_default=False)
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop", help="Part of the image where depth is compared: eigen or garg.", show_default="the whole image"
    ),
]
Rule = Annotated[str, typer.Option("--rule", help="Rule by which detections are scored: voc07, voc12 or coco.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="JSON file to write the figures to.", show_default=False)
]


@command(
    "tadp evaluate --model run --data export",
    "tadp evaluate --model run --data other --folders test=seq3",
    "tadp evaluate segmentation --data scenes --count 300 --captioner tadp-tiny",
    "tadp evaluate --model my-model --data voc --root VOCdevkit/VOC2012 --captions captions.db",
    "tadp evaluate segmentation --model my-model --images photos --masks masks --captions captions.db",
    "tadp evaluate segmentation --model my-model --data ade20k --root ADEChallengeData2016 --multi-scale --flip",
    "tadp evaluate depth --model my-model --data nyu --root nyu_depth_v2 --crop eigen --flip",
    "tadp evaluate detection --model my-model --data scenes --count 200",
)
@with_fields(DataOptions, leave_out=["images", "masks"])
def evaluate(
    task: OptionalTask = None,
    model: TaskModelOption = None,
    data: Data = None,
    images: Images = None,
    masks: Masks = None,
    root: Root = None,
    split: Split = None,
    count: Count = None,
    captions: Captions = None,
    captioner: CaptionerOption = None,
    base_model: BaseModel = None,
    crop: Crop = None,
    rule: Rule = "voc07",
    window_px: WindowPx = None,
    stride_px: StridePx = None,
    short_side_px: ShortSidePx = None,
    flip: Flip = False,
    multi_scale: MultiScale = False,
    batch_size: WindowBatch = 1,
    output: Output = None,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    **reader: Any,
) -> None:
    """Measure how well a task model predicts a data set, and print the figures.

    A task model is a backbone and a head that were trained together, for segmentation, depth or detection. Choose a
    data set with --data: a folder, whose layout is recognised, or a name. A model of "tadp train" is measured on the
    images that its run held out, with the options of the run and the captions in its folder, so the figures are those
    of its report; --split all takes all images. Of another folder, the part to test on is measured: that of its own
    split, or that of --lists, --folders, --group and --fraction, as in "tadp train"; without either, all images. If the
    run's captions or lists are elsewhere, pass them again. For segmentation you can also pass your own --images and
    --masks. The values of a mask are the indices of the model's classes, and 255 marks pixels without a label.

    Captions come from the file in --captions, or else from the captioner. Rendered scenes have true captions of their
    own; with --captioner, the captioner's captions are used instead.
    """
    from tadp.files.atomic import check_target

    task, model = find_task_model(task, model, revision=revision)
    options = DataOptions(images=images, masks=masks, **field_values(reader))
    _check_data(task, data, root=root, options=options)
    has_captions = captions is not None or captioner is not None
    run = run_of(model, data, task=task, passed=options.chosen, has_captions=has_captions)
    predict = predict_options(task, window_px, stride_px, short_side_px, flip, multi_scale)
    if run is not None:
        predict = {**run.predict, **{name: value or run.predict.get(name, value) for name, value in predict.items()}}
        crop = crop or run.metric.get("crop")
    if output is not None:
        check_target(output)
    predictor: Any = load_task(task, model, base_model=base_model, device=device, dtype=dtype, revision=revision)
    check_stride(predictor, predict)
    if data is not None and is_folder(data, root):
        with wrong_usage():
            samples = own_data(task, predictor, data, run=run, split=split, captions=captions, options=options)
    else:
        if run is not None and captioner is None:
            captions = captions or run.captions
        samples = _open_data(task, predictor, data, root=root, split=split, captions=captions, options=options)
    _check_classes(task, predictor, samples, data or "--masks")
    uses_captioner = captioner is not None or (captions is None and samples[0].caption is None)
    if uses_captioner:
        prepare_captions(predictor, caption=False, captioner=captioner, device=device)
    metric = predictor.make_metric(**_metric_options(task, crop=crop, rule=rule))
    predict["batch_size"] = batch_size
    result = _measured(predictor, samples, metric, count=count, uses_captioner=uses_captioner, options=predict)
    echo(str(result))
    if output is not None:
        _save_figures(result, output)
        echo(f"wrote {output}")


def _measured(
    model: Any, samples: Any, metric: Any, *, count: int | None, uses_captioner: bool, options: Mapping[str, Any]
) -> Any:
    """The figures of a model on the first samples, with a progress bar."""
    from tadp.files.progress import tracked
    from tadp.tasks import evaluate as measure

    total = len(samples) if count is None else min(count, len(samples))
    shown = tracked((samples[k] for k in range(total)), total, what="evaluating", unit="image")
    return measure(model, shown, metric=metric, captions="captioner" if uses_captioner else "data", **options)


def _check_data(task: Task, data: str | None, *, root: Path | None, options: DataOptions) -> None:
    """Refuse options that name no data set, or more than one, before a model is loaded."""
    from tadp.datasets.readers.named import DATASETS

    is_own = data is not None and is_folder(data, root)
    images, masks = options.images, options.masks
    for name in (*options.chosen, *options.chosen_split):
        if not is_own and name not in ("images", "masks"):
            raise OptionError(Argument(name), " is for a folder in ", Argument("data", ...), ".")
    if data is None:
        if images is None or masks is None:
            raise typer.BadParameter("pass --data NAME, or --images FOLDER and --masks FOLDER.", param_hint="--data")
        if task is not Task.segmentation:
            raise typer.BadParameter(f"masks are labels for segmentation, not for {task.value}.", param_hint="--masks")
        return
    if (masks is not None or images is not None) and not is_own:
        raise typer.BadParameter("pass --data, or --images and --masks, not both.", param_hint="--data")
    if is_own:
        return
    if data not in DATASETS:
        raise typer.BadParameter(
            f"unknown data set {data!r}; known: {', '.join(DATASETS)}. For your own images, pass their folder.",
            param_hint="--data",
        )
    if task.value not in DATASETS[data].tasks:
        raise typer.BadParameter(
            f"{data} has labels for {', '.join(DATASETS[data].tasks)}, not for {task.value}.", param_hint="--data"
        )
    if root is None and data != "scenes":
        raise typer.BadParameter(f"{data} is read from a folder; pass --root FOLDER.", param_hint="--root")


def _open_data(
    task: Task,
    model: Any,
    data: str | None,
    *,
    root: Path | None,
    split: str | None,
    captions: Path | None,
    options: DataOptions,
) -> Any:
    """The data set that the options name."""
    from tadp.captions import CaptionTable
    from tadp.datasets import MaskFolder
    from tadp.datasets.readers.named import open_dataset

    # the detection data sets map their labels to the model's class names
    labels = {"class_names": model.class_names} if task is Task.detection and data != "scenes" else {}
    try:
        if data is not None:
            return open_dataset(data, root, split=split, captions=captions, **labels)
        table = None if captions is None else CaptionTable.open(captions)
        return MaskFolder(options.images, options.masks, class_names=model.class_names, captions=table)  # pyright: ignore
    except ValueError as error:
        if isinstance(error, TADPError):
            raise
        raise typer.BadParameter(str(error), param_hint="--data" if data else "--images") from error


def _check_classes(task: Task, model: Any, samples: Any, data: str) -> None:
    """Refuse a data set whose classes differ from the model's."""
    if task is Task.depth:
        return
    names = tuple(samples.box_class_names if task is Task.detection else samples.class_names)
    if names == model.class_names:
        return
    raise typer.BadParameter(
        f"{data} has {len(names)} classes ({', '.join(names[:4])}, …), but the model has {len(model.class_names)} "
        f"({', '.join(model.class_names[:4])}, …); they must be the same, in the same order.",
        param_hint="--data",
    )


def _metric_options(task: Task, *, crop: str | None, rule: str) -> dict[str, Any]:
    """The options of a task's `make_metric`."""
    if task is Task.depth:
        if crop not in (None, "eigen", "garg"):
            raise typer.BadParameter(f"the crop must be eigen or garg; got {crop!r}.", param_hint="--crop")
        return {"crop": crop}
    if task is Task.detection:
        if rule not in ("voc07", "voc12", "coco"):
            raise typer.BadParameter(f"the rule must be voc07, voc12 or coco; got {rule!r}.", param_hint="--rule")
        return {"rule": rule}
    return {}


def _save_figures(result: Any, target: Path) -> None:
    from tadp.files.atomic import replace_alone

    with replace_alone(target) as part:
        part.write_text(json.dumps(_plain(asdict(result)), indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value for JSON, which has no NaN: NaN becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
