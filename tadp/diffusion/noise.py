"""How much noise a model was trained with at each timestep, and seeded noise to add to latents.

    schedule = NoiseSchedule.of(scheduler_config, kind="diffusion")
    noisy = schedule.add(latents, seeded_noise(latents, seed=0, number=0), timestep=261)

There are two kinds of schedule: diffusion (Stable Diffusion 1.x, 2.x, XL, and models distilled from them) and flow
matching (Stable Diffusion 3.x, FLUX). Both compute noisy latents as x_t = signal_t · x + noise_t · ε, and differ in the
two factors.
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
from tadp.files.building import explained
from tadp.files.hub import read_json
from tadp.files.model_folder import SCHEDULER
from tadp.files.schema import check_types, shown

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin


# The settings that say how noise was added and what is predicted. The rest of a scheduler's config is about sampling.
NOISE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
# From the scheduler_config.json of Stable Diffusion 1.x. 2.x and XL have the same betas.
ASSUMED_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
_MOST_STEPS = 100_000  # known models have 1,000
Kind = Literal["diffusion", "flow"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The factors of image and noise in noisy latents, x_t = signal[t] · x + noise[t] · ε, for each timestep t.

    Attributes:
        signal: Factor of the image at each timestep from 0: √ᾱ_t for diffusion, 1 - t / 1000 for flow matching.
        noise: Factor of the noise at each timestep from 0: √(1 - ᾱ_t) for diffusion, t / 1000 for flow matching.
    """

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, *, kind: Kind) -> "NoiseSchedule":
        """Return the noise schedule that a diffusers scheduler's configuration describes.

        Args:
            config: The content of `scheduler_config.json`. None is the default schedule of `kind`: Stable Diffusion's
                betas, or flow matching over 1,000 steps.
            kind: The kind of schedule if `config` is None: "diffusion" or "flow".

        Raises:
            ModelError: If the scheduler adds noise neither by diffusion nor by flow matching.
        """
        config = _known(config, kind)
        if _is_flow(config):
            steps = train_steps(config)
            return cls(tuple(1 - t / steps for t in range(steps)), tuple(t / steps for t in range(steps)))
        if not {"beta_schedule", "trained_betas"} & config.keys():
            name = config.get("_class_name") or "scheduler without betas"
            raise ModelError(
                f"the model's scheduler is a {name}; tadp can only add noise as "
                "schedulers with betas (DDPM, DDIM, PNDM, Euler, DPM-Solver …) and FlowMatch schedulers do. Pass "
                f"noise_samples=0, or correct {SCHEDULER}."
            )
        with torch.device("cpu"):  # while transformers loads a model, the default device is "meta"
            kept: Any = ddpm_scheduler(config).alphas_cumprod
        return cls(tuple(kept.sqrt().tolist()), tuple((1 - kept).sqrt().tolist()))

    def add(
        self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "_b c h w"], timestep: int
    ) -> Float[Tensor, "b c h w"]:
        """Add noise to latents, so that they look as in the model's training at a timestep.

        Args:
            latents: Latents without noise, (B, C, H, W), multiplied by the VAE's scaling factor.
            noise: Noise of unit variance: (1, C, H, W) for all images, or (B, C, H, W).
            timestep: Timestep, from 0 to the last timestep of the schedule.

        Returns:
            Noisy latents, (B, C, H, W), in float32 or higher precision.
        """
        precision = torch.promote_types(latents.dtype, torch.float32)
        return self.signal[timestep] * latents.to(precision) + self.noise[timestep] * noise.to(precision)


def noise_settings(config: Mapping[str, Any] | None, *, kind: Kind) -> dict[str, Any]:
    """The entries of a scheduler's configuration that determine the noise, as JSON values; see `NoiseSchedule.of`."""
    config = _known(config, kind)
    if _is_flow(config):
        return {"flow": True, "num_train_timesteps": train_steps(config)}
    return {key: config[key] for key in NOISE_KEYS if config.get(key) is not None and key != "prediction_type"}


def _known(config: Mapping[str, Any] | None, kind: Kind) -> Mapping[str, Any]:
    default = {"_class_name": "FlowMatch"} if kind == "flow" else ASSUMED_NOISE
    return default if config is None else config


def _is_flow(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name", "").startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def seeded_noise(latents: Float[Tensor, "b c h w"], *, seed: int, number: int) -> Float[Tensor, "1 c h w"]:
    """Draw noise of unit variance, one for all images of a batch, so that an image's place in the batch does not
    matter.

    The noise is drawn on the CPU and then moved, so it is the same on every device. `torch.compile` does not look into
    this function, and treats it as a single operation.

    Args:
        latents: Latents, (B, C, H, W), that determine the channels, height, width and device of the noise.
        seed: Seed of the noise, 0 or more.
        number: Number of the noise sample among those with this seed, 0 or more.

    Returns:
        Noise, (1, C, H, W), float32, on the device of the latents.
    """
    return draw_noise(latents.shape[1:], seed, number).to(latents.device)[None]


@torch.library.custom_op("tadp::draw_noise", mutates_args=())
def draw_noise(size: Sequence[int], seed: int, number: int) -> Tensor:
    """Noise of unit variance, float32, on the CPU, drawn by NumPy's generator with the seed (seed, number)."""
    drawn = np.random.default_rng((seed, number)).standard_normal(tuple(size), dtype=np.float32)
    return torch.from_numpy(drawn)


@draw_noise.register_fake
def _(size: Sequence[int], _seed: int, _number: int) -> Tensor:
    return torch.empty(tuple(size))


def train_steps(config: Mapping[str, Any] | None) -> int:
    """The number of timesteps that a model was trained with: the scheduler's value, or 1,000 if it has none.

    Raises:
        ModelError: If the number is below 1 or very large.
    """
    steps = ASSUMED_NOISE["num_train_timesteps"]
    steps = steps if config is None else config.get("num_train_timesteps", steps)
    if not isinstance(steps, int) or not 1 <= steps <= _MOST_STEPS:
        raise ModelError(f"num_train_timesteps must be from 1 to {_MOST_STEPS}; got {shown(steps)}.")
    return steps


def ddpm_scheduler(config: Mapping[str, Any]) -> "DDPMScheduler":
    """A diffusers scheduler that adds noise as the given configuration describes.

    Raises:
        ModelError: If its betas are not from 0 to 1, fall, or are not as many as the timesteps.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    steps = train_steps(config)  # before anything of this length is made
    scheduler = DDPMScheduler(**{key: config[key] for key in NOISE_KEYS if config.get(key) is not None})
    betas = scheduler.betas
    if not (bool(((betas >= 0) & (betas <= 1)).all()) and betas[0] <= betas[-1] > 0):
        raise ModelError(f"betas must rise between 0 and 1; these are from {betas[0]:g} to {betas[-1]:g}.")
    if len(betas) != steps:
        raise ModelError(f"trained_betas must have one beta per timestep, {steps}; got {len(betas)}.")
    return scheduler


def scheduler_config(scheduler: "SchedulerMixin | Mapping[str, Any] | None") -> dict[str, Any] | None:
    """The configuration of a diffusers scheduler with its class name, as in `scheduler_config.json`.

    Raises:
        TypeError: If `scheduler` is neither a diffusers scheduler nor a configuration.
    """
    from diffusers.configuration_utils import ConfigMixin

    if scheduler is None or isinstance(scheduler, Mapping):
        return None if scheduler is None else dict(scheduler)
    if not isinstance(scheduler, ConfigMixin):
        raise TypeError(
            f"scheduler must be a diffusers scheduler or its configuration; got {type(scheduler).__name__}."
        )
    return json.loads(scheduler.to_json_string())


def read_scheduler(folder: Path) -> dict[str, Any] | None:
    """The scheduler's configuration in a model folder; None if the folder has none.

    Raises:
        CorruptFileError: If the file is not JSON.
        ModelError: If a value cannot be used; the message names it.
    """
    path = folder / SCHEDULER
    if not path.exists():
        return None
    config = read_json(path)
    check_types(config, _scheduler_entries, path)
    read = ddpm_scheduler if {"beta_schedule", "trained_betas"} & config.keys() else train_steps
    with explained(path, config, what="a scheduler", attempt=read):
        read(config)
    return config


def _scheduler_entries(
    *,
    _class_name: str,
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    beta_schedule: str,
    trained_betas: list[float] | None,
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] | None,
    rescale_betas_zero_snr: bool | None,
    use_flow_sigmas: bool | None,
) -> None:
    """The entries of a scheduler's configuration that are read, as a schema."""
