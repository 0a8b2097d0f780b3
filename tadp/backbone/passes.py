"""The passes behind one call: at one timestep or several, without noise or averaged over several noises."""

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

# The result of a pass: maps, finest first, and attention by level.
PassResult: TypeAlias = tuple[tuple[Tensor, ...], dict[int, Tensor]]


@dataclass(frozen=True)
class Passes:
    """The passes of a backbone: runs of its denoiser, one per timestep and noise sample. Create them with `Passes.of`.

    Attributes:
        options: Options of the backbone, with its timesteps and the number of noise samples.
        scheduler: Configuration of the model's scheduler; None if it is not known.
        schedule: How much noise is added at each timestep; None if no noise is added.
    """

    options: BackboneOptions
    scheduler: dict[str, Any] | None = None
    schedule: NoiseSchedule | None = None

    @classmethod
    def of(
        cls, options: BackboneOptions, scheduler: "SchedulerMixin | Mapping[str, Any] | None", kind: Kind
    ) -> "Passes":
        """Plan the passes of a model, and check its options against the noise schedule.

        Args:
            options: Options of the backbone, with its timesteps and the number of noise samples.
            scheduler: The model's diffusers scheduler or its configuration; None if it is not known.
            kind: How the model's family adds noise if the scheduler is not known.

        Raises:
            TypeError: If `scheduler` is neither a diffusers scheduler nor a configuration.
            ValueError: If a timestep is not in the noise schedule, or if noise is to be added but the schedule has none
                at these timesteps.
            ModelError: If the scheduler adds noise in a way that tadp does not know.
        """
        config = scheduler_config(scheduler)
        steps = train_steps(config)
        for timestep in options.timesteps:
            if not 0 <= timestep < steps:
                raise ValueError(f"timestep must be from 0 to {steps - 1}; got {timestep}.")
        if not options.noise_samples:
            return cls(options, config)
        schedule = NoiseSchedule.of(config, kind=kind)
        if not any(schedule.noise[timestep] for timestep in options.timesteps):
            raise ValueError(
                f"this model adds no noise at timestep {options.timesteps[0]}, so noise_samples="
                f"{options.noise_samples} has no effect; pass a later timestep, such as timestep=261, or "
                "noise_samples=0."
            )
        if config is None and kind == "diffusion":
            warnings.warn(
                f"the model came without {SCHEDULER}; noise is added as in Stable Diffusion 1.x, 2.x and XL: 1,000 "
                "steps, scaled-linear betas from 0.00085 to 0.012. If it was trained differently, pass scheduler=.",
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
        """Channels of a map as a multiple of the channels of one pass."""
        return len(self.options.timesteps) if self.options.combine_timesteps == "concatenate" else 1

    def run(
        self, one_pass: Callable[..., PassResult], latents: Float[Tensor, "b c h w"], dtype: torch.dtype
    ) -> PassResult:
        """Run all passes, one at a time.

        Args:
            one_pass: Function from latents and the keyword argument `timestep` to maps and attention.
            latents: Latents without noise, (B, C, H, W).
            dtype: Dtype of the latents that `one_pass` takes.

        Returns:
            The maps, averaged over noise samples and averaged or concatenated over timesteps; and the attention,
            averaged over both, so that each token has one channel and the values of a cell have the same sum as in one
            pass.
        """
        timesteps = self.options.timesteps
        results = (self._run_at(timestep, one_pass, latents, dtype) for timestep in timesteps)
        if self.width > 1:
            return _concatenate(list(results))
        return _mean(results, len(timesteps))

    def _run_at(
        self, timestep: int, one_pass: Callable[..., PassResult], latents: Tensor, dtype: torch.dtype
    ) -> PassResult:
        schedule = self.schedule
        if schedule is None or not schedule.noise[timestep]:
            return one_pass(latents.to(dtype), timestep=timestep)
        seed, samples = self.options.noise_seed, self.options.noise_samples
        results = (
            one_pass(
                schedule.add(latents, seeded_noise(latents, seed=seed, number=number), timestep).to(dtype),
                timestep=timestep,
            )
            for number in range(samples)
        )
        return _mean(results, samples)


def _concatenate(results: list[PassResult]) -> PassResult:
    maps = tuple(torch.cat(level, dim=1) for level in zip(*(maps for maps, _ in results), strict=True))
    return maps, _mean((((), attention) for _, attention in results), len(results))[1]


def _mean(results: Iterable[PassResult], count: int) -> PassResult:
    """Average `count` passes, summed in float32 or higher precision; a single pass is returned as it is."""
    total: list[Tensor] = []
    maps: tuple[Tensor, ...] = ()
    attention: dict[int, Tensor] = {}
    for maps, attention in results:
        if count == 1:
            return maps, attention
        tensors = (*maps, *attention.values())
        values = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
        total = [before + value for before, value in zip(total, values, strict=True)] if total else values
    last = [*maps, *attention.values()]
    means = [(summed / count).to(like.dtype) for summed, like in zip(total, last, strict=True)]
    return tuple(means[: len(maps)]), dict(zip(attention, means[len(maps) :], strict=True))
