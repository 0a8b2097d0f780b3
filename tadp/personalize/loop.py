"""The loop that learning a token and DreamBooth share: seeded step by step, resumable, and stopped by a bad loss.

All that is random in a step comes from (seed, step), so that a run that was killed goes on as it would have.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tadp.errors import MissingExtraError, ModifierError, OutputError
from tadp.files.atomic import writable_folder
from tadp.personalize.checkpoints import Checkpoints
from tadp.personalize.objective import Latents, denoising_losses
from tadp.personalize.run_options import RunOptions
from tadp.personalize.sample_sheets import SampleSheets
from tadp.personalize.sampling import Sampler
from tadp.personalize.trained_model import DiffusionModel
from tadp.personalize.training_images import SAMPLES, TrainingImages

_STEP, _EPOCH = 0, 1  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Concept:
    """Images, and what each may be called.

    Attributes:
        images: The images.
        texts: For each image, one text or several, of which one is drawn each time.
        weight: Of their loss.
    """

    images: TrainingImages
    texts: Sequence[Sequence[str]]
    weight: float = 1.0


def build_optimizer(parameters: Iterable[nn.Parameter], options: RunOptions) -> torch.optim.Optimizer:
    """AdamW, in 8 bits if that is asked for.

    Raises:
        MissingExtraError: If it is and bitsandbytes is not installed, or does not work here.
    """
    settings: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if not options.adam_8bit:
        return torch.optim.AdamW(parameters, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            "8-bit Adam needs bitsandbytes, whose older releases need a GPU; pip install -U bitsandbytes, or leave "
            "adam_8bit=False."
        ) from error
    return AdamW8bit(parameters, **settings)


def train(
    model: DiffusionModel,
    concepts: Sequence[Concept],
    *,
    trained: Mapping[str, nn.Parameter],
    options: RunOptions,
    identity: Mapping[str, Any],
    shown: Sequence[str],
    description: str,
) -> None:
    """Train parameters of a model, in place, until all steps are done; the options' output gets checkpoints and sheets.

    Args:
        model: The model.
        concepts: On what.
        trained: The parameters by name.
        options: How.
        identity: Of the run, for its checkpoints.
        shown: Texts of the sheets of samples.
        description: Of the bar.

    Raises:
        MissingFileError: If samples are wanted and the model has no decoder to draw with.
        ModifierError: If the loss or its gradient is not finite, the checkpoint is of another run, or has more steps.
        OutputError: If the output cannot be written or has no room for a checkpoint, before any step; or if one, or a
            sheet, cannot be written later.
    """
    checkpoints = Checkpoints(options.output, identity=identity, resume=options.resume)
    sheets = _sheets(model, options, shown, side_px=concepts[0].images.side_px)
    optimizer = build_optimizer(trained.values(), options)
    done = checkpoints.load(trained, optimizer)
    if done > options.steps:
        raise ModifierError(
            f"this run has done {done} steps already, more than steps={options.steps}. Ask for as many or more, or "
            "pass resume=False to begin anew."
        )
    if options.output is not None and done < options.steps:
        _check_room(writable_folder(options.output), trained.values(), options)
    if sheets is not None and done == 0:
        sheets.write(0)
    draws = [(concept, Latents(model, concept.images)) for concept in concepts]
    taken: int | None = done  # steps that are whole; None while one is taken
    with tqdm(
        range(done, options.steps), initial=done, total=options.steps, desc=description, disable=not options.progress
    ) as bar:
        try:
            for step in bar:
                loss = _backward(model, draws, step, trained.values(), options, checkpoints)
                taken = None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                taken = step + 1
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if taken == options.steps or taken % options.checkpoint_every == 0:
                    checkpoints.save(taken, trained, optimizer)
                if sheets is not None and (taken == options.steps or taken % options.sample_every == 0):
                    sheets.write(taken)
        except KeyboardInterrupt:
            if taken is not None and taken > (checkpoints.saved_step or 0):
                checkpoints.save(taken, trained, optimizer)
            raise


def _backward(
    model: DiffusionModel,
    draws: Sequence[tuple[Concept, Latents]],
    step: int,
    trained: Iterable[nn.Parameter],
    options: RunOptions,
    checkpoints: Checkpoints,
) -> float:
    """The loss of a step, its gradient in the parameters, clipped."""
    loss = 0.0
    for part in _losses(model, draws, step, options):
        loss += part.item()
        _check(loss, "loss", step, options, checkpoints)
        part.backward()
    limit = math.inf if options.max_grad_norm is None else options.max_grad_norm  # inf: the norm is taken, no more
    norm = nn.utils.clip_grad_norm_(trained, limit)
    _check(norm.item(), "gradient", step, options, checkpoints)
    return loss


def _check_room(folder: Path, trained: Iterable[nn.Parameter], options: RunOptions) -> None:
    """A checkpoint that cannot be written is better known before the first step than after the hundredth."""
    of_a_value = 6 if options.adam_8bit else 12  # bytes: the parameter, and Adam's two means
    needed, free = of_a_value * sum(one.numel() for one in trained), shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"a checkpoint takes {_size(needed)}, and {folder} has {_size(free)} left. Free some space or choose "
            "another folder; nothing was trained."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _sheets(model: DiffusionModel, options: RunOptions, texts: Sequence[str], *, side_px: int) -> SampleSheets | None:
    """What writes sheets on the way, if any are wanted."""
    if options.output is None or not options.sample_every:
        return None
    return SampleSheets(options.output / SAMPLES, Sampler(model), texts=texts, seed=options.seed, side_px=side_px)


def _check(value: float, what: str, step: int, options: RunOptions, checkpoints: Checkpoints) -> None:
    if not math.isfinite(value):
        anew = "" if options.output is None else " Either is another run: give another output, or resume=False."
        raise ModifierError(
            f"the {what} is {value} in step {step + 1}, so training stopped. {checkpoints.kept} Take a smaller "
            f"learning rate than {options.lr:g}, or float32 for the whole.{anew}"
        )


def _losses(
    model: DiffusionModel, draws: Sequence[tuple[Concept, Latents]], step: int, options: RunOptions
) -> Iterator[Tensor]:
    """The parts of a step's loss, one at a time; each is to be run backward before the next is asked for."""
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


def _indices(count: int, step: int, options: RunOptions) -> list[int]:
    """Which images are a step's: whole rounds through all, each in an order of its own."""
    places = range(step * options.batch_size, (step + 1) * options.batch_size)
    orders: dict[int, Callable[[int], int]] = {
        epoch: np.random.default_rng((options.seed, _EPOCH, epoch)).permutation(count).item
        for epoch in {place // count for place in places}
    }
    return [orders[place // count](place % count) for place in places]
