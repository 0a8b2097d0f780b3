"""How much noise a model was trained with at each timestep, and seeded noise to add to latents.

    schedule = NoiseSchedule.of(scheduler_config, kind="diffusion")
    noisy = schedule.add(latents, seeded_noise(latents, seed=0, number=0), timestep=261)

Two kinds: diffusion (Stable Diffusion 1.x, 2.x, XL, and what was distilled from them) and flow matching (Stable
Diffusion 3.x, FLUX). Both are x_t = signal_t · x + noise_t · ε, with other shares.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tadp.errors import ModelError
from tadp.files.hub import read_json
from tadp.files.model_folder import SCHEDULER

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin


# What says how noise was added and what is predicted; the rest of a scheduler's config is about sampling.
NOISE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
# Stable Diffusion 1.x: its scheduler_config.json. 2.x and XL have the same betas.
ASSUMED_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
Kind = Literal["diffusion", "flow"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The shares of image and noise in latents, x_t = signal[t] · x + noise[t] · ε.

    Attributes:
        signal: At each timestep from 0; diffusion: √ᾱ_t; flow matching: 1 - t / 1000.
        noise: Likewise; diffusion: √(1 - ᾱ_t); flow matching: t / 1000.
    """

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, *, kind: Kind) -> "NoiseSchedule":
        """What a diffusers scheduler's configuration says.

        Args:
            config: As in `scheduler_config.json`; None takes Stable Diffusion's betas, or flow matching over 1,000
                steps.
            kind: What is meant by None.

        Raises:
            ModelError: If it is of a scheduler that adds noise in another way.
        """
        config = ({"_class_name": "FlowMatch"} if kind == "flow" else ASSUMED_NOISE) if config is None else config
        name = config.get("_class_name", "")
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
            steps = train_steps(config)
            return cls(tuple(1 - t / steps for t in range(steps)), tuple(t / steps for t in range(steps)))
        if not {"beta_schedule", "trained_betas"} & config.keys():
            raise ModelError(
                f"the model's scheduler is a {name or 'scheduler without betas'}; tadp adds noise as schedulers with "
                "betas (DDPM, DDIM, PNDM, Euler, DPM-Solver …) and FlowMatch schedulers do. Use noise_samples=0."
            )
        with torch.device("cpu"):  # where transformers loads a model, it is "meta"
            kept: Any = ddpm_scheduler(config).alphas_cumprod
        return cls(tuple(kept.sqrt().tolist()), tuple((1 - kept).sqrt().tolist()))

    def add(
        self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "_b c h w"], timestep: int
    ) -> Float[Tensor, "b c h w"]:
        """Latents as the model saw them in training at a timestep.

        Args:
            latents: Clean ones, scaled.
            noise: Of unit variance, one for all or one each.
            timestep: 0 to the schedule's last.

        Returns:
            (B, C, H, W), in float32 at least.
        """
        precision = torch.promote_types(latents.dtype, torch.float32)
        return self.signal[timestep] * latents.to(precision) + self.noise[timestep] * noise.to(precision)


def seeded_noise(latents: Float[Tensor, "b c h w"], *, seed: int, number: int) -> Float[Tensor, "1 c h w"]:
    """Unit noise for latents of this size: one for the whole batch, so that an image's place in it does not matter.

    Drawn on the CPU and moved, so that it is the same on every device; `torch.compile` takes it as one call.

    Args:
        latents: Of which channels, height, width and device are taken.
        seed: 0 or more.
        number: Which of a seed's noises.

    Returns:
        (1, C, H, W), float32, on the latents' device.
    """
    return draw_noise(latents.shape[1:], seed, number).to(latents.device)[None]


@torch.library.custom_op("tadp::draw_noise", mutates_args=())
def draw_noise(size: Sequence[int], seed: int, number: int) -> Tensor:
    """Unit noise, float32, on the CPU: NumPy's, from (seed, number)."""
    drawn = np.random.default_rng((seed, number)).standard_normal(tuple(size), dtype=np.float32)
    return torch.from_numpy(drawn)


@draw_noise.register_fake
def _(size: Sequence[int], _seed: int, _number: int) -> Tensor:
    return torch.empty(tuple(size))


def train_steps(config: Mapping[str, Any] | None) -> int:
    """How many timesteps a model was trained with: what its scheduler says, else 1,000."""
    return (config or {}).get("num_train_timesteps") or ASSUMED_NOISE["num_train_timesteps"]


def ddpm_scheduler(config: Mapping[str, Any]) -> "DDPMScheduler":
    """A scheduler of diffusers that adds noise as another one's configuration says."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**{key: config[key] for key in NOISE_KEYS if config.get(key) is not None})


def scheduler_config(scheduler: "SchedulerMixin | Mapping[str, Any] | None") -> dict[str, Any] | None:
    """The configuration of a diffusers scheduler, with its class's name, as its file has it.

    Raises:
        TypeError: If it is neither a scheduler nor a configuration.
    """
    from diffusers.configuration_utils import ConfigMixin

    if scheduler is None or isinstance(scheduler, Mapping):
        return None if scheduler is None else dict(scheduler)
    if not isinstance(scheduler, ConfigMixin):
        raise TypeError(f"a scheduler is one of diffusers', or its configuration; got a {type(scheduler).__name__}.")
    return json.loads(scheduler.to_json_string())


def read_scheduler(folder: Path) -> dict[str, Any] | None:
    """The scheduler's configuration in a model's folder; None if it has none.

    Raises:
        CorruptFileError: If it is not JSON.
    """
    return read_json(folder / SCHEDULER) if (folder / SCHEDULER).exists() else None
