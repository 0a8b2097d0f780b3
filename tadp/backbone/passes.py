"""Which passes make a feature: at one timestep or several, without noise or over an ensemble, one after another."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.backbone.options import BackboneOptions
from tadp.diffusion.noise import SCHEDULER, Kind, NoiseSchedule, scheduler_config, seeded_noise, train_steps

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

# What one pass makes: maps, finest first, and attention by level.
Made: TypeAlias = tuple[tuple[Tensor, ...], dict[int, Tensor]]


@dataclass(frozen=True)
class Passes:
    """The passes of a backbone; `Passes.of` checks the options against the model's schedule.

    Attributes:
        options: Timesteps and noises.
        scheduler: The configuration of the model's scheduler; None if it is not known.
        schedule: How much noise; None if none is added.
    """

    options: BackboneOptions
    scheduler: dict[str, Any] | None = None
    schedule: NoiseSchedule | None = None

    @classmethod
    def of(
        cls, options: BackboneOptions, scheduler: "SchedulerMixin | Mapping[str, Any] | None", kind: Kind
    ) -> "Passes":
        """The passes of a model with these options.

        Args:
            options: Timesteps and noises.
            scheduler: The model's, or its configuration, as `TADPBackbone` takes it.
            kind: How the model's family adds noise where the scheduler is not known.

        Raises:
            TypeError: If the scheduler is of an unknown type.
            ValueError: If the schedule lacks a timestep, or has no noise there.
            ModelError: If the scheduler adds noise in a way that tadp does not know.
        """
        config = scheduler_config(scheduler)
        steps = train_steps(config)
        for timestep in options.timesteps:
            if not 0 <= timestep < steps:
                raise ValueError(f"timestep is 0 to {steps - 1}; got {timestep}.")
        if not options.noise_samples:
            return cls(options, config)
        schedule = NoiseSchedule.of(config, kind=kind)
        if not any(schedule.noise[timestep] for timestep in options.timesteps):
            raise ValueError(
                f"this model adds no noise at timestep {options.timesteps[0]}, so noise_samples="
                f"{options.noise_samples} has no meaning; pass a later timestep, such as timestep=261, or "
                "noise_samples=0."
            )
        if config is None and kind == "diffusion":
            warnings.warn(
                f"the model came without {SCHEDULER}; noise is added as in Stable Diffusion 1.x, 2.x and XL: 1,000 "
                "steps, scaled-linear betas from 0.00085 to 0.012. If it was trained otherwise, pass scheduler=.",
                stacklevel=5,  # the caller of `from_pretrained`
            )
        return cls(options, config, schedule)

    def __str__(self) -> str:
        options = self.options
        times = ", ".join(map(str, options.timesteps))
        several = (", averaged" if options.combine_timesteps == "mean" else ", concatenated") * (
            len(options.timesteps) > 1
        )
        noises = {0: "", 1: f"; noise of seed {options.noise_seed}"}.get(
            options.noise_samples, f"; mean over {options.noise_samples} noises of seed {options.noise_seed}"
        )
        return times + several + noises

    @property
    def width(self) -> int:
        """How many times as many channels a map has as that of one pass."""
        return len(self.options.timesteps) if self.options.combine_timesteps == "concatenate" else 1

    def run(self, one_pass: Callable[..., Made], latents: Float[Tensor, "b c h w"], dtype: torch.dtype) -> Made:
        """All passes, one at a time.

        Args:
            one_pass: From latents and `timestep=` to maps and attention.
            latents: Clean ones.
            dtype: Of the latents that a pass takes.

        Returns:
            Maps averaged over noises, and averaged or concatenated over timesteps; attention averaged over both, so
            that a token has one channel and a cell's values sum to what they do in one pass.
        """
        timesteps = self.options.timesteps
        made = (self._at(timestep, one_pass, latents, dtype) for timestep in timesteps)
        if self.width > 1:
            return _concatenated(list(made))
        return _mean(made, len(timesteps))

    def _at(self, timestep: int, one_pass: Callable[..., Made], latents: Tensor, dtype: torch.dtype) -> Made:
        schedule = self.schedule
        if schedule is None or not schedule.noise[timestep]:
            return one_pass(latents.to(dtype), timestep=timestep)
        seed, samples = self.options.noise_seed, self.options.noise_samples
        made = (
            one_pass(
                schedule.add(latents, seeded_noise(latents, seed=seed, number=number), timestep).to(dtype),
                timestep=timestep,
            )
            for number in range(samples)
        )
        return _mean(made, samples)


def _concatenated(made: list[Made]) -> Made:
    maps = tuple(torch.cat(level, dim=1) for level in zip(*(maps for maps, _ in made), strict=True))
    return maps, _mean((((), attention) for _, attention in made), len(made))[1]


def _mean(made: Iterable[Made], count: int) -> Made:
    """The mean of `count` passes, summed in float32 at least; of one pass, what it made."""
    total: list[Tensor] = []
    maps: tuple[Tensor, ...] = ()
    attention: dict[int, Tensor] = {}
    for maps, attention in made:
        if count == 1:
            return maps, attention
        values = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in (*maps, *attention.values())]
        total = [before + one for before, one in zip(total, values, strict=True)] if total else values
    last = [*maps, *attention.values()]
    means = [(one / count).to(like.dtype) for one, like in zip(total, last, strict=True)]
    return tuple(means[: len(maps)]), dict(zip(attention, means[len(maps) :], strict=True))
