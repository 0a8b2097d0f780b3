"""The training loop of token learning and DreamBooth. It can be resumed, and stops if the loss is not finite.

All random numbers of a step depend only on (seed, step), so a run that was killed continues with the same numbers.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tadp.errors import Argument, MissingExtraError, ModifierError, OutputError
from tadp.files.atomic import writable_folder
from tadp.files.progress import Progress, duration, say
from tadp.personalize.objective import Latents, denoising_losses
from tadp.personalize.run_folder import RunFolder
from tadp.personalize.run_options import SettledOptions
from tadp.personalize.sampling import Sampler, SampleSheets
from tadp.personalize.trained_model import DiffusionModel
from tadp.personalize.training_images import SAMPLES, Concept
from tadp.training.schedules import FUSED_ADAM

_STEP, _EPOCH = 0, 1  # streams of random numbers
_TIMED = 2  # steps before the first; the first of them also warms up


def train(
    model: DiffusionModel,
    concepts: Sequence[Concept],
    *,
    trained: Mapping[str, nn.Parameter],
    options: SettledOptions,
    folder: RunFolder,
    sample_prompts: Sequence[str],
    description: str,
    max_grad_norm: float | None = None,
) -> None:
    """Train parameters of a model in place until all steps are done; the folder gets checkpoints and sample sheets.

    Args:
        model: The model that is trained.
        concepts: The training images and their texts; with prior preservation, the prior images are a second concept.
        trained: The parameters to train, by name.
        options: The options of the run.
        folder: The run's folder.
        sample_prompts: Prompts of the sample sheets, one per row of samples.
        description: Text of the progress.
        max_grad_norm: Largest norm of the gradient; a larger gradient is scaled down. None does not limit it.

    Raises:
        MissingFileError: If samples should be drawn and the model has no decoder.
        ModifierError: If the loss or its gradient is not finite, or the checkpoint belongs to another run or has more
            steps.
        OutputError: If the folder cannot be written to or has no room for a checkpoint, which is checked before the
            first step; or if a checkpoint or a sample sheet cannot be written later.
    """
    sheets = _sheets(model, options, folder, sample_prompts, side_px=concepts[0].images.side_px)
    optimizer = build_optimizer(trained.values(), options)
    done = folder.load(trained, optimizer)
    if done > options.steps:
        raise ModifierError(
            f"this run has already done {done} steps, more than ",
            Argument("steps", options.steps),
            ". Pass at least that many, or pass ",
            Argument("resume", False),
            " to start again.",
        )
    if folder.path is not None and done < options.steps:
        _check_room(writable_folder(folder.path), trained.values(), options)
    draws = [(concept, Latents(model, concept.images)) for concept in concepts]
    if options.progress and done < options.steps:
        _tell_cost(
            lambda: _backward(model, draws, done, trained.values(), options, folder, max_grad_norm), done, options
        )
        optimizer.zero_grad(set_to_none=True)
    if sheets is not None and (done == 0 or (_is_due(done, options) and not sheets.path(done).exists())):
        sheets.write(done)  # also the sheet of a checkpoint after which the run was killed
    complete: int | None = done  # the number of complete steps; None during a step of the optimizer
    with Progress(options.steps, what=description, unit="step", done=done, is_shown=options.progress) as progress:
        try:
            for step in range(done, options.steps):
                loss = _backward(model, draws, step, trained.values(), options, folder, max_grad_norm)
                complete = None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                complete = step + 1
                progress.advance(note=f"loss {loss:.4f}")
                if complete == options.steps or complete % options.checkpoint_every == 0:
                    folder.save(complete, trained, optimizer)
                if sheets is not None and _is_due(complete, options):
                    sheets.write(complete)
        except KeyboardInterrupt:
            if complete is not None and complete > (folder.saved_step or 0):
                folder.save(complete, trained, optimizer)
            raise


def _tell_cost(step: Callable[[], float], done: int, options: SettledOptions) -> None:
    """Time a step without changing the model, and say what the steps that are left cost."""
    count, images = options.steps - done, options.batch_size
    left = f"{count:,} step{'s' * (count > 1)} of {images} image{'s' * (images > 1)}"
    say(f"{left}{f', after the {done:,} that are done' if done else ''}; timing {_TIMED} steps first")
    seconds = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    total = duration(count * min(seconds))
    sheets = " and the sample sheets" if options.sample_every else ""
    say(f"about {total} on this machine, {min(seconds):.2g} seconds per step; checkpoints{sheets} take extra time")


def _is_due(step: int, options: SettledOptions) -> bool:
    """Whether a sheet of samples is drawn after a step."""
    return step == options.steps or step % options.sample_every == 0


def build_optimizer(parameters: Iterable[nn.Parameter], options: SettledOptions) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit variant if the options request it.

    Raises:
        MissingExtraError: If 8 bits are requested and bitsandbytes is not installed or does not work here.
    """
    settings: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    parameters = list(parameters)
    if not options.adam_8bit:
        return torch.optim.AdamW(parameters, fused=parameters[0].device.type in FUSED_ADAM, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            "8-bit Adam needs bitsandbytes, whose older releases need a GPU; pip install -U bitsandbytes, or pass ",
            Argument("adam_8bit", False),
            ".",
        ) from error
    return AdamW8bit(parameters, **settings)


def _sheets(
    model: DiffusionModel, options: SettledOptions, folder: RunFolder, prompts: Sequence[str], *, side_px: int
) -> SampleSheets | None:
    if folder.path is None or not options.sample_every:
        return None
    return SampleSheets(folder.path / SAMPLES, Sampler(model), prompts=prompts, seed=options.seed, side_px=side_px)


def _check_room(path: Path, trained: Iterable[nn.Parameter], options: SettledOptions) -> None:
    """Refuse a disk without room for a checkpoint before the first step, instead of failing at the first checkpoint."""
    bytes_per_value = 6 if options.adam_8bit else 12  # the parameter and Adam's two means
    needed, free = bytes_per_value * sum(values.numel() for values in trained), shutil.disk_usage(path).free
    if free < needed:
        raise OutputError(
            f"a checkpoint takes {_size(needed)}, but {path} has {_size(free)} left. Free some space or choose "
            "another folder; nothing was trained."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _backward(
    model: DiffusionModel,
    draws: Sequence[tuple[Concept, Latents]],
    step: int,
    trained: Iterable[nn.Parameter],
    options: SettledOptions,
    folder: RunFolder,
    max_grad_norm: float | None,
) -> float:
    """The loss of a step. Its clipped gradient is stored in the parameters."""
    loss = 0.0
    for part in _losses(model, draws, step, options):
        loss += part.item()
        _check(loss, "loss", step, options, folder)
        part.backward()
    # with inf the norm is computed and nothing is clipped
    norm = nn.utils.clip_grad_norm_(trained, math.inf if max_grad_norm is None else max_grad_norm)
    _check(norm.item(), "gradient", step, options, folder)
    return loss


def _check(value: float, what: str, step: int, options: SettledOptions, folder: RunFolder) -> None:
    if not math.isfinite(value):
        again = (" Both make it another run: pass another output, or ", Argument("resume", False), ".")
        raise ModifierError(
            f"the {what} is {value} in step {step + 1}, so training stopped. {folder} Use a smaller learning rate than "
            f"{options.lr:g}, or float32 for the whole model.",
            *(() if folder.path is None else again),
        )


def _losses(
    model: DiffusionModel, draws: Sequence[tuple[Concept, Latents]], step: int, options: SettledOptions
) -> Iterator[Tensor]:
    """The parts of a step's loss, one at a time. Run each part backward before you take the next."""
    rng = np.random.default_rng((options.seed, _STEP, step))
    size = options.micro_batch or options.batch_size
    cells_of = model.backbone.vae.reduction
    times = model.noise.config["num_train_timesteps"]
    for concept, latents in draws:
        indices = _indices(len(concept.images), step, options)
        crops = [concept.images.draw(index, rng) for index in indices]
        texts = [concept.texts[index][int(rng.integers(len(concept.texts[index])))] for index in indices]
        cells = concept.images.side_px // cells_of
        shape = (len(indices), model.backbone.layout.latent_channels, cells, cells)
        within, noise = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2))
        timesteps = torch.from_numpy(rng.integers(times, size=len(indices)))
        for start in range(0, len(indices), size):
            part = slice(start, start + size)
            losses = denoising_losses(
                model,
                latents.sample(crops[part], within[part]),
                noise=noise[part],
                timesteps=timesteps[part],
                embeddings=_embeddings(model, texts[part]),
            )
            yield concept.weight * losses.sum() / len(indices)


def _embeddings(model: DiffusionModel, texts: list[str]) -> Tensor:
    with model.computing():
        return model.text_encoder(texts).embeddings


def _indices(count: int, step: int, options: SettledOptions) -> list[int]:
    """The images of a step. Steps go through all images in rounds, each round in its own random order."""
    places = range(step * options.batch_size, (step + 1) * options.batch_size)
    orders: dict[int, Callable[[int], int]] = {
        epoch: np.random.default_rng((options.seed, _EPOCH, epoch)).permutation(count).item
        for epoch in {place // count for place in places}
    }
    return [orders[place // count](place % count) for place in places]
