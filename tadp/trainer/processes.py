"""The processes of a training run, which accelerate sets up. Needs the extra `train`."""

import torch

from tadp.errors import Argument, TrainingError
from tadp.files.checks import needs
from tadp.training.schedules import Schedule

with needs("training needs accelerate", install="pip install 'tadp[train]'"):
    from accelerate import Accelerator
    from accelerate.utils import broadcast as broadcast
    from accelerate.utils import gather_object as gather_object
    from accelerate.utils import load as load
    from accelerate.utils import set_seed as set_seed


def start(
    schedule: Schedule,
    *,
    seed: int,
    micro_batch: int | None = None,
    mixed_precision: str = "no",
    processes: int | None = None,
) -> tuple[Accelerator, int]:
    """Make the accelerator for the processes and devices that torchrun or `accelerate launch` set up.

    Args:
        schedule: The schedule, whose batch is split over processes and accumulated parts.
        seed: Seed of all random generators.
        micro_batch: Number of images that a process takes at a time; None splits the batch only over processes.
        mixed_precision: "no" or "bf16".
        processes: Number of processes that must have been started; None accepts any.

    Returns:
        The accelerator, and the number of images that a process takes at a time.

    Raises:
        TrainingError: If the number of processes is not the expected one, or the batch cannot be split.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=not torch.cuda.is_available())
    count = accelerator.num_processes
    if processes not in (None, count):
        raise TrainingError(
            f"{count} process(es) started, not {processes}. Start with python -m torch.distributed.run "
            f"--nproc_per_node {processes}; accelerate launch --cpu always starts only one."
        )
    size = micro_batch or max(schedule.batch // count, 1)
    if schedule.batch % (size * count):
        raise TrainingError(
            f"a batch of {schedule.batch} cannot be split into {count} process(es) x {size} images. Give another ",
            Argument("batch"),
            " or ",
            Argument("micro_batch"),
            ".",
        )
    accelerator.gradient_accumulation_steps = schedule.batch // (size * count)
    set_seed(seed)  # the same initial head in all processes
    return accelerator, size


def split_text(accelerator: Accelerator, *, micro_batch: int) -> str:
    """How the batch of a step is split, in words."""
    count, parts = accelerator.num_processes, accelerator.gradient_accumulation_steps
    return (
        f"{count} process(es) x {micro_batch} images x {parts} accumulated = {count * micro_batch * parts} images per "
        f"step, on {accelerator.device}, mixed precision: {accelerator.mixed_precision}"
    )
