"""`tadp predict`: predict with a trained task model."""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.assets import TASK_MODELS
from tadp.cli.app import Caption, Device, DtypeOption, Overwrite, Revision, command
from tadp.cli.task_options import (
    BaseModel,
    CaptionerOption,
    Flip,
    MultiScale,
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
from tadp.cli.terminal import Dtype, echo, fail, progress, report_left_out, warn_about_tiny
from tadp.errors import Argument, CaptionError, ImageError, OutputError

if TYPE_CHECKING:
    from tadp.tasks import TaskModel
    from tadp.tasks.base import Finish


SCORE = 0.5  # the default of `DetectionResult.plot`
TaskAndImages = Annotated[
    list[str],
    typer.Argument(
        metavar="[TASK] IMAGES",
        help="Image files, folders (including subfolders) and quoted patterns. The task may come first: segmentation, "
        "depth or detection; without it, the task is that of the model.",
        show_default=False,
    ),
]


@command(
    "tadp predict segmentation scene.png",
    "tadp predict photo.jpg --model my-model",
    "tadp predict depth photos -o depth --model my-model --caption 'a kitchen'",
    "tadp predict depth photos -o depth --model my-vpd --caption kitchen",
    "tadp predict detection photo.jpg --model my-model --captioner blip2",
)
def predict(
    arguments: TaskAndImages,
    model: TaskModelOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("predictions"),
    caption: Caption = None,
    captioner: CaptionerOption = None,
    base_model: BaseModel = None,
    window_px: WindowPx = None,
    stride_px: StridePx = None,
    short_side_px: ShortSidePx = None,
    flip: Flip = False,
    multi_scale: MultiScale = False,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            help="Score above which the pictures of detection show a box.",
            show_default=f"the score with the best F1 in the model's run, or {SCORE:g}",
        ),
    ] = None,
    batch_size: WindowBatch = 1,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict classes, depth or objects, and write the predictions as pictures and as data.

    For photo.jpg, the command writes a picture to look at, photo.TASK.plot.png, and the data: photo.segmentation.png
    (grey values are class indices) or photo.depth.png (16-bit millimetres), each with a small .json file, or
    photo.detection.json. The .json file of detection has all boxes, and the picture those above --score.

    To continue a run, run the command again: finished images are skipped. Those whose boxes were drawn with another
    --score are done again. If their results were made by another model or with other options, or an image has changed,
    nothing is replaced unless you pass --overwrite. An image that
    cannot be read, or is too large for the memory, is reported, and the others are still predicted; so are folders and
    links that cannot be read. Files that are not images are counted and left out, and so are the pictures that this
    command wrote to the output folder. Only one run at a time writes to a folder.
    """
    from tadp.files.atomic import remove_leftovers
    from tadp.files.run_lock import only_run
    from tadp.tasks.evaluation import predict_each
    from tadp.trainer.run_record import drawing_score

    task, images = _task_and_images(arguments)
    task, model = find_task_model(task, model, revision=revision)
    options = predict_options(task, window_px, stride_px, short_side_px, flip, multi_scale)
    names, unread = _result_names(images, output)
    failed = unread
    todo = {image: output / f"{name}.{task.value}" for name, image in names.items()}
    if not todo:
        raise typer.Exit(1)
    predictor = load_task(task, model, base_model=base_model, device=device, dtype=dtype, revision=revision)
    check_stride(predictor, options)
    prepare_captions(predictor, caption=caption is not None, captioner=captioner, device=device)
    if predictor.text.own_class:
        predictor.text.of_images(caption)  # refuses an unknown class before an image is read
    settings = _prediction_settings(predictor, name=model, revision=revision, caption=caption, options=options)
    plot: dict[str, float] = {}
    why = "--score"
    if task is Task.detection and score is None and (score := drawing_score(model)) is not None:
        why = "the best F1 on the images that its run held out; --score changes it"
    if task is Task.detection:
        plot = {"score": SCORE if score is None else score}
    settings |= plot
    with only_run(output, is_folder=True) as run:
        for folder in {target.parent for target in todo.values()}:
            remove_leftovers(folder)
        if not overwrite:
            left = _left_to_do(todo, settings=settings)
            if len(left) < len(todo):
                echo(f"{len(todo) - len(left)} already done")
            todo = left
        with progress() as bar:
            requests = (((image, target), image, caption) for image, target in todo.items())
            predictions = predict_each(predictor, requests, batch_size=batch_size, **options)
            less_memory = {"batch_size": 1} if batch_size > 1 else {}
            less_memory |= {"short_side_px": 512} if "short_side_px" in options else {}
            for (image, target), finish in bar.track(predictions, total=len(todo), description="predicting"):
                try:
                    result, written = _write_prediction(
                        finish, image, target, settings=settings, plot=plot, less_memory=less_memory
                    )
                except (ImageError, CaptionError) as error:
                    fail(error)
                    failed += 1
                    continue
                finally:
                    run.check()
                echo(f"{image}: {_summary(result)} → {', '.join(str(path) for path in written)}")
    if task is Task.detection and todo:
        shown = f"the pictures show boxes with a score above {plot['score']:g} ({why})"
        echo(f"{shown}; the .json files have all", err=True)
    if predictor.captioner is not None and caption is None and model not in TASK_MODELS.values():
        warn_about_tiny(str(predictor.captioner_name), others="--captioner")
    if failed:
        echo(f"{failed} of {len(names) + unread} failed", err=True)
        raise typer.Exit(1)


def _task_and_images(arguments: list[str]) -> tuple[Task | None, list[str]]:
    """The task, if the first argument names one, and the images. A single argument that exists is an image."""
    first, *rest = arguments
    if first not in tuple(Task) or (not rest and Path(first).exists()):
        return None, arguments
    if not rest:
        raise typer.BadParameter(f"pass images after the task {first}.", param_hint="IMAGES")
    return Task(first), rest


def _write_prediction(
    finish: "Finish",
    image: Path,
    target: Path,
    *,
    settings: dict[str, Any],
    plot: dict[str, Any],
    less_memory: dict[str, int],
) -> tuple[Any, list[Path]]:
    """Predict one image and write its files; returns the result and their paths.

    Raises:
        ImageError: If the image cannot be read, needs more memory than there is, or has a name that no result can have.
        CaptionError: If its caption cannot be used.
    """
    from tadp.extract.outputs import file_digest
    from tadp.files.atomic import is_about_name
    from tadp.files.checks import is_out_of_memory

    try:
        result = finish()
        # the data last, with the .json at the end: an image counts as done when its .json exists
        record = {"settings": settings, "image_sha256": file_digest(image)}
        return result, [_save_plot(result, Path(f"{target}.plot.png"), **plot), *result.save(target, record=record)]
    except OutputError as error:
        if not is_about_name(error):
            raise
        raise ImageError(*error.args) from error
    except (ImageError, MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error.__cause__ or error):
            raise
        hints = [part for name, value in less_memory.items() for part in (", or pass ", Argument(name, value))]
        raise ImageError(f"{image} needs more memory than there is. Shrink the file", *hints, ".") from error


def _result_names(images: list[str], output: Path) -> tuple[dict[str, Path], int]:
    """The image of each result's name, and how many arguments, folders and links led to no image.

    A name depends only on its own argument: "rex" for photos/rex.jpg, "pets/rex" for an image below a folder.
    """
    from tadp.extract import ImageList

    names: dict[str, Path] = {}
    failed = 0
    for argument in images:
        try:
            image_list = ImageList.of([argument])
        except ImageError as error:
            fail(error)
            failed += 1
            continue
        for error in image_list.unreadable.values():
            fail(error)
            failed += 1
        known = set(image_list.names.values())
        report_left_out([file for file in image_list.left_out if not _is_result(file, output, known)])
        for image, name in image_list.names.items():
            if _is_result(image, output, known):
                continue
            if names.get(name, image) != image:
                raise typer.BadParameter(
                    f"{names[name]} and {image} would both be written as {name}; write them to two folders.",
                    param_hint="IMAGES",
                )
            names[name] = image
    return names, failed


def _is_result(file: Path, output: Path, names: Collection[str]) -> bool:
    """Whether a file in the output folder is a result: of an image with one of these names, or with a record."""
    kinds = "|".join(task.value for task in Task)
    match = re.fullmatch(rf"(.+)\.({kinds})(\.plot\.png|\.png|\.json)", file.name, re.DOTALL)
    place, root = file.resolve(), output.resolve()
    if match is None or not place.is_relative_to(root):
        return False
    is_of_image = place.with_name(match[1]).relative_to(root).as_posix() in names
    return is_of_image or "settings" in (_record(file.with_name(f"{match[1]}.{match[2]}")) or {})


def _prediction_settings(
    model: "TaskModel", *, name: str, revision: str | None, caption: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that determines a prediction besides the image, as JSON values.

    Args:
        model: The task model. Its options and a fingerprint of its weights are recorded, so that a retrained or changed
            model counts as another model.
        name: The model's name, as the user passed it.
        revision: The model's revision, as the user passed it; None if none was passed.
        caption: The caption of all images; None if a captioner describes them or the model uses its own text.
        options: Arguments of the model's `predict`.
    """
    from tadp.extract import fingerprint

    attached: Any = model.captioner  # from `prepare_captions`
    captioner = None if attached is None else {"name": attached.name, **attached.generation}
    settings = {
        "model": name,
        "revision": revision,
        "weights": fingerprint(model),
        "model_options": model.options,
        "backbone_options": model.backbone.options.to_dict(),
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "text": {"caption": caption} if caption is not None else {"captioner": captioner},
        "options": options,
    }
    return json.loads(json.dumps(settings))


def _left_to_do(todo: dict[Path, Path], *, settings: dict[str, Any]) -> dict[Path, Path]:
    """Return the images that have no result yet, with the paths of their results.

    Args:
        todo: For the path of each image, the path of its result without suffix.
        settings: The settings of this run, as `_prediction_settings` returns them.

    Raises:
        OutputError: If an existing result was made with other settings or from another version of its image. The
            message names the difference.
    """
    left, in_the_way = {}, {}
    for image, target in todo.items():
        record = _record(target)
        if record is None or not os.access(image, os.R_OK):  # reading the image gives the reason
            left[image] = target
        elif why := _difference(record, image, settings):
            in_the_way[target.name] = why
        elif record["settings"].get("score") != settings.get("score") or not Path(f"{target}.plot.png").exists():
            left[image] = target  # only the picture changes or is missing
    if in_the_way:
        name, why = next(iter(in_the_way.items()))
        raise OutputError(
            f"{len(in_the_way)} of these {len(todo)} results exist with other settings: for {name}, {why}. Pass "
            "another folder, or ",
            Argument("overwrite", True),
            ".",
        )
    return left


def _record(target: Path) -> dict[str, Any] | None:
    """The record of a result; None if it is missing or incomplete."""
    from tadp.extract.outputs import read_record

    record = read_record(Path(f"{target}.json"))
    is_whole = record is not None and (target.suffix == f".{Task.detection.value}" or Path(f"{target}.png").exists())
    return record if is_whole else None


def _difference(record: dict[str, Any], image: Path, settings: dict[str, Any]) -> str | None:
    """How an existing result differs from the one that would be written now, except by the score of drawn boxes.

    None if it does not differ.
    """
    from tadp.extract.outputs import brief, file_digest

    before = record.get("settings")
    if not isinstance(before, dict):
        return "its settings were not recorded"
    for key, value in settings.items():
        if key != "score" and before.get(key) != value:
            return f"{key} was {brief(before.get(key))} and is {brief(value)}"
    digest = file_digest(image)
    return None if digest is not None and record.get("image_sha256") == digest else "the image has changed"


def _summary(result: Any) -> str:
    return repr(result).partition("(")[2].removesuffix(")")


def _save_plot(result: Any, target: Path, **options: Any) -> Path:
    from tadp.files.atomic import replace_file

    with replace_file(target) as part:
        result.plot(**options).save(part, format="PNG")
    return target
