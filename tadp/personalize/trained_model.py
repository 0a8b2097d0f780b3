"""A diffusion model with all that training needs: a backbone and the noise schedule that it was trained with."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.diffusion.noise import ASSUMED_NOISE, SCHEDULER, ddpm_scheduler
from tadp.errors import ModelError
from tadp.files.hub import HubOptions
from tadp.files.model_folder import model_folder
from tadp.text.encoder import TextEncoder
from tadp.text.stack import only_encoder

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A diffusion model that can be trained by denoising: a backbone with the noise schedule of its training.

    Attributes:
        backbone: The U-Net, the text encoder and the VAE's encoder.
        noise: A diffusers scheduler that adds noise as in the model's training.
        folder: Folder of the model's files, including the VAE's decoder.
        precision: Data type in which the model computes. Parameters that train are always float32.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.
    """

    backbone: TADPBackbone
    noise: "DDPMScheduler"
    folder: Path
    precision: torch.dtype
    variant: str | None = None

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder. `load_diffusion` checks that there is one."""
        encoder = self.backbone.text_encoder
        if encoder is None:
            raise ModelError(f"the model in {self.folder} has no text encoder.")
        return only_encoder(encoder)

    @property
    def side_px(self) -> int:
        """Side of the square images that the model was trained on: 512 for Stable Diffusion 1.x."""
        cells = self.backbone.family.native_cells(self.backbone.unet) or 64
        return cells * self.backbone.vae.reduction

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in `precision`, even if some parameters have another precision."""
        lower = self.precision is not torch.float32
        with torch.autocast(self.backbone.device.type, self.precision if lower else torch.bfloat16, enabled=lower):
            yield

    def predict(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Int[Tensor, " b"], embeddings: Float[Tensor, "b l d"]
    ) -> Float[Tensor, "b c h w"]:
        """The U-Net's prediction for noisy latents: the noise, or the velocity."""
        backbone = self.backbone
        with self.computing():
            return backbone.family.denoise(
                backbone.unet, noisy.to(backbone.dtype), timesteps, embeddings.to(backbone.dtype)
            ).float()


def load_diffusion(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    hub: HubOptions | None = None,
) -> DiffusionModel:
    """Load a diffusion model for training by denoising. The VAE's decoder is only loaded when images are drawn.

    Args:
        name: "tadp-tiny", a folder in diffusers layout, or a hub id.
        dtype: Data type of all parts; None is float32.
        device: Device of the model; None is the CPU.
        hub: Revision and download options of a model on the hub; None is `HubOptions()`.

    Raises:
        ModelError: If the model is not available, lacks a part, has no text encoder, or predicts neither noise nor
            velocity.
        TypeError: If `name` is neither a string nor a path.
    """
    if not isinstance(name, str | Path):
        kind = type(name).__name__
        raise TypeError(
            f"the model must be a folder or a hub id, because training needs all of its parts; got {kind}. Pass the "
            "name that it was loaded from."
        )
    hub = hub or HubOptions()
    backbone = TADPBackbone.from_pretrained(name, dtype=dtype, device=device, attach_attention=(), **asdict(hub))
    if backbone.text_encoder is None:
        raise ModelError(
            f"{name} was saved without its text encoder, which training needs; use a model with text_encoder/ and "
            "tokenizer/."
        )
    only_encoder(backbone.text_encoder)
    folder = model_folder(name, hub=hub)
    backbone.requires_grad_(False)
    noise = _noise(backbone.passes.scheduler, folder)
    return DiffusionModel(backbone, noise, folder, dtype or torch.float32, hub.variant)


def _noise(scheduler: dict[str, Any] | None, folder: Path) -> "DDPMScheduler":
    config = scheduler or ASSUMED_NOISE
    if scheduler is None:
        warnings.warn(
            f"no {SCHEDULER} in {folder}; Stable Diffusion 1.x's noise is assumed, because most models of this shape "
            "were trained from it: 1,000 steps, scaled-linear betas from 0.00085 to 0.012, and the noise is predicted. "
            "If the model predicts velocity (Stable Diffusion 2.x at 768 pixels), copy its scheduler/ there.",
            stacklevel=4,
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{folder / SCHEDULER} says {prediction!r}; the prediction must be 'epsilon' or 'v_prediction'."
        )
    return ddpm_scheduler(config)
