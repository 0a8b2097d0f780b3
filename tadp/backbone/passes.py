"""The passes behind one call: at one timestep or several, without noise or averaged over several noises."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.backbone.options import BackboneOptions
from tadp.diffusion.noise import SCHEDULER, Kind, NoiseSchedule, scheduler_config, seeded_noise, train_steps
from tadp.text.conditioning import Conditioning

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
        batch_size: Largest number of passes that run at once.
    """

    options: BackboneOptions
    scheduler: dict[str, Any] | None = None
    schedule: NoiseSchedule | None = None
    batch_size: int = 1

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
        self,
        one_pass: Callable[..., PassResult],
        latents: Float[Tensor, "b c h w"],
        text: Conditioning,
        dtype: torch.dtype,
    ) -> PassResult:
        """Run all passes, `batch_size` at a time.

        Args:
            one_pass: Function from latents and the keyword arguments `timestep` and `text` to maps and attention.
            latents: Latents without noise, (B, C, H, W).
            text: The encoded text of each image.
            dtype: Dtype of the latents that `one_pass` takes.

        Returns:
            The maps, averaged over noise samples and averaged or concatenated over timesteps; and the attention,
            averaged over both, so that each token has one channel and the values of a cell have the same sum as in one
            pass.
        """
        timesteps = self.options.timesteps
        if self.batch_size == 1:
            results = (self._run_at(timestep, one_pass, latents, text, dtype) for timestep in timesteps)
        else:
            single = self._run_batches(one_pass, latents, text, dtype)
            counts = [self._count(timestep) for timestep in timesteps]
            results = (_mean(islice(single, count), count) for count in counts)
        if self.width > 1:
            return _concatenate(list(results))
        return _mean(results, len(timesteps))

    def _run_at(
        self,
        timestep: int,
        one_pass: Callable[..., PassResult],
        latents: Tensor,
        text: Conditioning,
        dtype: torch.dtype,
    ) -> PassResult:
        count = self._count(timestep)
        results = (
            one_pass(self._noisy(latents, timestep, number).to(dtype), timestep=timestep, text=text)
            for number in range(count)
        )
        return _mean(results, count)

    def _run_batches(
        self, one_pass: Callable[..., PassResult], latents: Tensor, text: Conditioning, dtype: torch.dtype
    ) -> Iterator[PassResult]:
        """The result of each pass, in order. A batch has all images for its first pass, then all for its second."""
        inputs = [(step, number) for step in self.options.timesteps for number in range(self._count(step))]
        images = latents.shape[0]
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            steps = [step for step, _ in part]
            rows = torch.tensor(steps, device=latents.device).repeat_interleave(images)
            maps, attention = one_pass(
                torch.cat([self._noisy(latents, step, number).to(dtype) for step, number in part]),
                timestep=steps[0] if len(set(steps)) == 1 else rows,
                text=Conditioning.stack([text] * len(part)),
            )
            for place in range(len(part)):
                own = slice(place * images, (place + 1) * images)
                yield (
                    tuple(level[own] for level in maps),
                    {level: recorded[own] for level, recorded in attention.items()},
                )

    def _count(self, timestep: int) -> int:
        """The number of passes at a timestep: one per noise sample, or one if no noise is added there."""
        is_noisy = self.schedule is not None and self.schedule.noise[timestep]
        return self.options.noise_samples if is_noisy else 1

    def _noisy(self, latents: Tensor, timestep: int, number: int) -> Tensor:
        """Latents with the noise of a sample, if noise is added at this timestep."""
        if self.schedule is None or not self.schedule.noise[timestep]:
            return latents
        noise = seeded_noise(latents, seed=self.options.noise_seed, number=number)
        return self.schedule.add(latents, noise, timestep)


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
