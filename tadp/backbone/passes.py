"""Which passes make a feature: at one timestep or several, without noise or over an ensemble, one after another."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.diffusion.noise import SCHEDULER, Kind, NoiseSchedule, scheduler_config, seeded_noise, train_steps
from tadp.files.checks import check_choice, check_whole

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

CombineTimesteps = Literal["mean", "concatenate"]
# What one pass makes: maps, finest first, and attention by level.
Made: TypeAlias = tuple[tuple[Tensor, ...], dict[int, Tensor]]
_SEEDS = 2**63


@dataclass(frozen=True)
class Passes:
    """Timesteps and noises of a backbone; `make_passes` checks them.

    Attributes:
        timesteps: One or several, in the order in which their maps are concatenated.
        combine: How several timesteps become one feature.
        noise_samples: Noises that are averaged at each timestep; 0 adds none.
        noise_seed: Of the noises.
        scheduler: The configuration of the model's scheduler; None if it is not known.
        schedule: How much noise; None if none is added.
    """

    timesteps: tuple[int, ...]
    combine: CombineTimesteps
    noise_samples: int
    noise_seed: int
    scheduler: dict[str, Any] | None = None
    schedule: NoiseSchedule | None = None

    def __str__(self) -> str:
        times = ", ".join(map(str, self.timesteps))
        several = (", averaged" if self.combine == "mean" else ", concatenated") * (len(self.timesteps) > 1)
        noises = {0: "", 1: f"; noise of seed {self.noise_seed}"}.get(
            self.noise_samples, f"; mean over {self.noise_samples} noises of seed {self.noise_seed}"
        )
        return times + several + noises

    @property
    def timestep(self) -> int | tuple[int, ...]:
        """As the backbone takes it: one number, or several."""
        return self.timesteps[0] if len(self.timesteps) == 1 else self.timesteps

    @property
    def options(self) -> dict[str, Any]:
        """As the backbone takes them, for JSON."""
        return {
            "timestep": self.timesteps[0] if len(self.timesteps) == 1 else list(self.timesteps),
            "combine_timesteps": self.combine,
            "noise_samples": self.noise_samples,
            "noise_seed": self.noise_seed,
        }

    @property
    def width(self) -> int:
        """How many times as many channels a map has as that of one pass."""
        return len(self.timesteps) if self.combine == "concatenate" else 1

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
        made = (self._at(timestep, one_pass, latents, dtype) for timestep in self.timesteps)
        if self.combine == "concatenate" and len(self.timesteps) > 1:
            return _concatenated(list(made))
        return _mean(made, len(self.timesteps))

    def _at(self, timestep: int, one_pass: Callable[..., Made], latents: Tensor, dtype: torch.dtype) -> Made:
        schedule = self.schedule
        if schedule is None or not schedule.noise[timestep]:
            return one_pass(latents.to(dtype), timestep=timestep)
        made = (
            one_pass(
                schedule.add(latents, seeded_noise(latents, seed=self.noise_seed, number=number), timestep).to(dtype),
                timestep=timestep,
            )
            for number in range(self.noise_samples)
        )
        return _mean(made, self.noise_samples)


def make_passes(
    timestep: int | Sequence[int],
    *,
    combine: CombineTimesteps,
    noise_samples: int,
    noise_seed: int,
    scheduler: "SchedulerMixin | Mapping[str, Any] | None",
    kind: Kind,
    scale_latents: bool,
) -> Passes:
    """Passes, checked against the model's scheduler.

    Args:
        timestep: As `TADPBackbone` takes it.
        combine: Likewise.
        noise_samples: Likewise.
        noise_seed: Likewise.
        scheduler: Likewise.
        kind: The noise of the model's family.
        scale_latents: Whether latents have the scale that the noise is for.

    Raises:
        TypeError: If a number or the scheduler is none.
        ValueError: If one is out of range, a timestep occurs twice, there is none, or noise has no meaning.
        ModelError: If the scheduler adds noise in a way that tadp does not know.
    """
    config = scheduler_config(scheduler)
    timesteps = _checked_timesteps(timestep, train_steps(config))
    check_choice(combine, get_args(CombineTimesteps), name="combine_timesteps")
    samples = check_whole(noise_samples, name="noise_samples", minimum=0)
    seed = check_whole(noise_seed, name="noise_seed", minimum=None)
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"noise_seed is 0 to 2**63 - 1; got {seed}.")
    if not samples:
        return Passes(timesteps, combine, samples, seed, config)
    if not scale_latents:
        raise ValueError("noise is for latents of unit scale; leave scale_latents as it is, or pass noise_samples=0.")
    schedule = NoiseSchedule.of(config, kind=kind)
    if not any(schedule.noise[one] for one in timesteps):
        raise ValueError(
            f"this model adds no noise at timestep {timesteps[0]}, so noise_samples={samples} has no meaning; pass a "
            "later timestep, such as timestep=261, or noise_samples=0."
        )
    if config is None and kind == "diffusion":
        warnings.warn(
            f"the model came without {SCHEDULER}; noise is added as in Stable Diffusion 1.x, 2.x and XL: 1,000 steps, "
            "scaled-linear betas from 0.00085 to 0.012. If it was trained otherwise, pass scheduler=.",
            stacklevel=4,
        )
    return Passes(timesteps, combine, samples, seed, config, schedule)


def _checked_timesteps(timestep: int | Sequence[int], steps: int) -> tuple[int, ...]:
    given = timestep if isinstance(timestep, Sequence) and not isinstance(timestep, str) else [timestep]
    timesteps = tuple(check_whole(one, name="timestep", minimum=None) for one in given)
    if not timesteps:
        raise ValueError("timestep is a number or several; got none.")
    for one in timesteps:
        if not 0 <= one < steps:
            raise ValueError(f"timestep is 0 to {steps - 1}; got {one}.")
    if len(set(timesteps)) < len(timesteps):
        raise ValueError(f"each timestep counts once; got {timesteps}.")
    return timesteps


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
