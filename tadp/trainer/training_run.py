"""Train a model on a data set: everything from the labelled images to the measured model, in one folder."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any

from tadp.errors import Argument, CaptionError, OutputError, TrainingError
from tadp.files.atomic import remove_leftovers
from tadp.files.checks import check_choice, check_utf8
from tadp.files.progress import duration, say
from tadp.files.run_lock import only_run
from tadp.tasks import TaskModel
from tadp.trainer.checkpoints import Watch, differences
from tadp.trainer.processes import Accelerator, start
from tadp.trainer.run_data import DataParts, captioner_of, open_parts, with_captions
from tadp.trainer.run_plan import TASKS, Plan, describe, make_plan
from tadp.trainer.run_record import RECORD, RESULT, finished, read_record, write
from tadp.trainer.run_report import (
    command,
    compare,
    figure_table,
    machine,
    measure,
    measure_trivial,
    versions,
    warning_of,
    write_report,
)
from tadp.trainer.train_options import TrainOptions
from tadp.trainer.training_batches import drawn_images, load_backbone, training_data
from tadp.trainer.training_loop import LoopSettings, fit, total_steps
from tadp.trainer.unloading import ENCODERS


@dataclass(frozen=True)
class TrainingRun:
    """A finished run.

    Attributes:
        folder: The folder of the run, which `from_pretrained` loads.
        task: Name of the task.
        figures: Figures on the held-out images, by name.
        baselines: Figures of trivial predictions, by the name of the prediction.
    """

    folder: Path
    task: str
    figures: dict[str, float]
    baselines: dict[str, dict[str, float]]

    def __str__(self) -> str:
        table = figure_table({"this model": self.figures, **self.baselines})
        return "\n".join([table, *warning_of(TASKS[self.task], self.figures, self.baselines)])

    @property
    def report(self) -> Path:
        """The path of the report."""
        return self.folder / "report.md"

    @cached_property
    def model(self) -> TaskModel:
        """The trained model, loaded from the folder."""
        return TASKS[self.task].kind.from_pretrained(self.folder)


def train(task: str, data: Any, output: str | Path, **options: Any) -> TrainingRun:
    """Train a model on a data set, measure it on held-out images, and write model and report to a folder.

    If the run is stopped, the same call continues it to the same weights. A folder with another run is refused, unless
    that run stopped before its first checkpoint.

    Args:
        task: "segmentation", "depth" or "detection".
        data: The folder of a data set (see `tadp.datasets.open`), the name of one, or a data set itself.
        output: The folder of the run. It gets the model with its card, report.md, checkpoints and captions.
        **options: Fields of `TrainOptions`.

    Returns:
        The finished run.

    Raises:
        TrainingError: If the run cannot start or continue.
        DatasetError: If the data cannot be read or split.
        OptionError: If an option is unknown or out of range.
        OutputError: If another run is writing to the folder, or it cannot be written.
        MissingExtraError: If accelerate is not installed.
    """
    started, chosen, folder = time.perf_counter(), TrainOptions(**options), Path(output)
    check_utf8(folder, OutputError)
    check_choice(task, tuple(TASKS), name="task")
    parts = open_parts(task, data, chosen)
    plan = make_plan(task, parts, chosen)
    total_steps(plan.recipe.schedule, len(parts.train))
    accelerator, micro_batch = begin(plan)
    with only_run(folder, is_folder=True) if accelerator.is_main_process else nullcontext():
        run = finished(folder)
        _check_same(folder, plan, parts)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _clean_up(folder, is_finished=run is not None)
        if run is not None:
            tell(plan, accelerator, f"{folder} holds this run already, and it is finished.")
            return TrainingRun(folder, task, run["figures"], run["baselines"])
        _write_record(folder, plan, parts, accelerator)
        for line in describe(plan, parts, accelerator, micro_batch=micro_batch):
            tell(plan, accelerator, line)
        parts, sha = captioned(plan, parts, folder, accelerator)
        model = build_model(plan, parts, accelerator)
        model.captioner_name = captioner_of(captions_file(plan, folder)) if plan.text == "captions" else None
        model = _fit(plan, model, parts, folder, accelerator, micro_batch=micro_batch, captions_sha256=sha)
        return _finish(plan, model, parts, folder, accelerator, started=started)


def begin(plan: Plan) -> tuple[Accelerator, int]:
    """The accelerator of a run, and the number of images that a process takes at a time."""
    precision = "bf16" if plan.options.precision == "bfloat16" else "no"
    return start(
        plan.recipe.schedule,
        seed=plan.options.seed,
        micro_batch=plan.options.micro_batch,
        mixed_precision=precision,
    )


def tell(plan: Plan, accelerator: Accelerator, line: str) -> None:
    """Write a line to the error stream, if progress is shown."""
    if plan.options.progress and accelerator.is_main_process:
        say(line)


def captions_file(plan: Plan, folder: Path) -> Path:
    """The caption file of a run."""
    return plan.options.captions or folder / "captions.db"


def captioned(plan: Plan, parts: DataParts, folder: Path, accelerator: Accelerator) -> tuple[DataParts, str | None]:
    """The data with captions, if the text is captions, and the fingerprint of the training captions."""
    if plan.text != "captions":
        return parts, None
    data, sha = with_captions(
        parts.openers, captions_file(plan, folder), captioner=plan.captioner, accelerator=accelerator
    )
    return parts.with_captioned(data), sha


def build_model(plan: Plan, parts: DataParts, accelerator: Accelerator) -> TaskModel:
    """The model before its training."""
    seed = plan.options.seed if plan.options.untrained else None
    backbone = load_backbone(plan.options.model, accelerator, untrained_seed=seed, **plan.task.backbone_options)
    try:
        return plan.task.build(backbone, parts.train, plan.recipe, text=plan.text, lora_rank=plan.options.lora_rank)
    except CaptionError as error:
        parts_of_message = [
            Argument("text", part.value) if isinstance(part, Argument) and part.name == "prompt_mode" else part
            for part in error.args
        ]
        raise CaptionError(*parts_of_message) from error


def drawn_by(plan: Plan, parts: DataParts) -> list[int]:
    """The training images that a run takes, by their index."""
    return drawn_images(len(parts.train), plan.recipe.schedule, seed=plan.options.seed)


def prepared_data(
    plan: Plan,
    model: TaskModel,
    parts: DataParts,
    folder: Path,
    accelerator: Accelerator,
    *,
    micro_batch: int,
    drawn: Sequence[int] | None = None,
) -> Any:
    """The training data as the loop takes them. Of images that are encoded once, only those in `drawn`; None is all."""
    recipe = plan.recipe
    return training_data(
        model,
        parts.train,
        recipe.transforms(recipe.crop_px),
        seed=plan.options.seed,
        folder=folder / "encoded" if recipe.cache_latents else None,
        accelerator=accelerator,
        drawn=drawn,
        batch_size=micro_batch,  # as in a step, so that latents have the same bits
        overwrite=not any((folder / "checkpoints").glob("step-*")),
    )


def loop_settings(plan: Plan, folder: Path, *, micro_batch: int, steps: int) -> LoopSettings:
    """The settings of the training loop."""
    options = plan.options
    return LoopSettings(
        output=folder,
        schedule=plan.recipe.schedule,
        micro_batch=micro_batch,
        seed=options.seed,
        workers=options.workers,
        gradient_checkpointing=options.gradient_checkpointing,
        ema=options.ema,
        log_every=max(steps // 100, 1),
        save_every=options.save_every,
        evaluate_every=plan.evaluate_every,
    )


def _fit(
    plan: Plan,
    model: TaskModel,
    parts: DataParts,
    folder: Path,
    accelerator: Accelerator,
    *,
    micro_batch: int,
    captions_sha256: str | None,
) -> TaskModel:
    """Train the model. During the run it is evaluated on some of the images by which the run stops early."""
    task, recipe, options = plan.task, plan.recipe, plan.options

    def score(current: Any) -> dict[str, float]:
        metric = current.make_metric(**recipe.metric)
        filled = compare(
            current, metric, parts.val, accelerator=accelerator, most=options.evaluate_images,
            batch_size=options.evaluate_batch, **recipe.predict,
        )  # fmt: skip
        return task.figures(filled.compute())

    steps = total_steps(recipe.schedule, len(parts.train))
    return fit(
        model,
        prepared_data(plan, model, parts, folder, accelerator, micro_batch=micro_batch, drawn=drawn_by(plan, parts)),
        loss=task.loss(model),
        weight=task.weight,
        settings=loop_settings(plan, folder, micro_batch=micro_batch, steps=steps),
        identity={"choices": plan.choices, "images_sha256": parts.origin["train"], "captions_sha256": captions_sha256},
        accelerator=accelerator,
        evaluate=score if plan.evaluate_every else None,
        watch=Watch(task.watched, task.higher_is_better, options.patience) if options.patience else None,
    )


def _finish(
    plan: Plan, model: TaskModel, parts: DataParts, folder: Path, accelerator: Accelerator, *, started: float
) -> TrainingRun:
    """Measure the model and trivial predictions, and write model, report and result."""
    task, recipe, seed = plan.task, plan.recipe, plan.options.seed + accelerator.process_index
    test = test_options(plan)
    measured = measure(
        task,
        model,
        parts.test,
        accelerator=accelerator,
        metric=test["metric"],
        batch_size=plan.options.evaluate_batch,
        **test["predict"],
    )
    figures, remarks = task.figures(measured.result), task.remarks(measured.result)
    make_metric: Any = model.make_metric
    trivial = {
        name: measure_trivial(make_metric(**recipe.metric), predict, parts.test, accelerator=accelerator)
        for name, predict in task.baselines(parts.train, model, seed=seed).items()
    }
    baselines = {name: task.figures(metric.compute()) for name, metric in trivial.items()}
    if accelerator.is_main_process:
        minutes = (time.perf_counter() - started) / 60
        card = {"data": f"{parts.name}, of which {len(parts.train)} images were used for training", "metrics": figures}
        model.save_pretrained(folder, model_card_kwargs=card)
        rows = {"this model": figures, **baselines}
        write_report(
            folder,
            measured,
            title=f"{task.name.capitalize()} on {parts.name}",
            rows=rows,
            notes=[_about(plan, parts), *remarks, *(f"\n**{line}**" for line in warning_of(task, figures, baselines))],
            choices=plan.choices,
            facts={
                "time": f"{duration(60 * minutes)} since the last start, with the figures",
                "machine": machine(accelerator),
                **versions(),
            },
        )
        details = asdict(measured.result)
        result = {"figures": figures, "baselines": baselines, "details": details, "minutes": round(minutes, 2)}
        score = task.drawing_score(measured.result)
        result |= {} if score is None else {"drawing_score": score}
        for line in remarks:
            tell(plan, accelerator, line)
        write(folder / RESULT, {**result, "command": command(), "versions": versions()})
        _clean_up(folder, is_finished=True)
    accelerator.wait_for_everyone()
    return TrainingRun(folder, task.name, figures, baselines)


def _clean_up(folder: Path, *, is_finished: bool) -> None:
    """Remove what a killed process left, and the checkpoints of a finished run, which are large."""
    remove_leftovers(folder)
    (folder / ENCODERS).unlink(missing_ok=True)
    if is_finished:
        rmtree(folder / "checkpoints", ignore_errors=True)


def test_options(plan: Plan) -> dict[str, dict[str, Any]]:
    """The options of the last evaluation: those of `predict`, and those of the metric."""
    flip = {"flip": True} if plan.options.flip and plan.task.name != "detection" else {}
    return {"predict": {**plan.recipe.predict, **flip}, "metric": dict(plan.recipe.metric)}


def _about(plan: Plan, parts: DataParts) -> str:
    """What the figures were measured on."""
    text = f"Measured on {len(parts.test)} held-out images ({parts.measured}), after training on {len(parts.train)}."
    if plan.options.patience and parts.test is parts.val:
        text += " The run also stopped early by the score on these images, so their figures are a little too good."
    return text


def _write_record(folder: Path, plan: Plan, parts: DataParts, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        captions = captions_file(plan, folder) if plan.text == "captions" else None
        inside = captions is not None and captions.parent == folder
        write(
            folder / RECORD,
            {
                "task": plan.task.name,
                "choices": plan.choices,
                "data": parts.origin,
                "measured": parts.measured,
                "captions": None if captions is None else captions.name if inside else str(captions.resolve()),
                "test": test_options(plan),
            },
        )
    accelerator.wait_for_everyone()


def _check_same(folder: Path, plan: Plan, parts: DataParts) -> None:
    """Refuse a folder with another run, or with other files.

    Raises:
        TrainingError: If the folder has a run with other choices or data; the message names them.
        OutputError: If the folder has files of something else.
    """
    record = read_record(folder)
    if record is None:
        if (folder / "config.json").exists():
            raise OutputError(
                f"{folder} holds a model that this run did not write. Pass another ", Argument("output"), "."
            )
        return
    if not (folder / RESULT).exists() and not any((folder / "checkpoints").glob("step-*")):
        return  # that run has no step to continue from: it failed before, or was ended early
    readers = [data.get("reader", {}) for data in (record["data"], parts.origin)]
    changed = differences(record["choices"] | readers[0], plan.choices | readers[1])
    if record["data"]["train"] != parts.origin["train"]:
        changed = "; ".join(part for part in (changed, "the training images are others") if part)
    stored, now = record["data"].get("contents"), parts.origin["contents"]  # older records have none
    if not changed and isinstance(stored, dict):
        kinds = " and ".join(kind for kind in now if stored.get(kind) != now[kind])
        changed = kinds and f"the contents of the {kinds} have changed since it began"
    if changed:
        raise TrainingError(
            f"{folder} holds a run with other settings: {changed}. Pass another ",
            Argument("output"),
            ", or the same options.",
        )
