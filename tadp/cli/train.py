"""`tadp train`: train a model on a data set."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tadp.cli.app import command
from tadp.cli.field_options import field_values, with_fields
from tadp.cli.task_options import TaskArgument
from tadp.cli.terminal import echo, no_gc, silence, wrong_usage
from tadp.trainer.train_options import TrainOptions

Data = Annotated[str, typer.Option("--data", help="The folder of a data set, or the name of one.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model, the report and checkpoints.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Time a few steps and predictions, print the cost, and stop.")]


@command(
    "tadp train segmentation --data export -o run --dry-run",
    "tadp train segmentation --data export -o run",
    "tadp train detection --data export -o run --captioner blip2 --tune lora",
    "tadp train depth --data nyu --root nyu_depth_v2 -o run --recipe nyu-1-epoch",
)
@with_fields(TrainOptions, leave_out=["progress"])
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
    with no_gc():
        import torch.distributed

        from tadp.trainer import estimate
        from tadp.trainer import train as run_training

        silence()
    chosen = field_values(options)
    with wrong_usage():
        if dry_run:
            echo(str(estimate(task.value, data, output, **chosen)))
            return
        run = run_training(task.value, data, output, **chosen)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # without this, a process may abort while Python ends
    if os.environ.get("RANK", "0") != "0":  # another process of torch.distributed.run prints the same
        return
    echo(str(run))
    echo(f"the model is in {output}; {run.report} has the details")
