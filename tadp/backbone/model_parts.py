"""`ModelParts`: a diffusion model's VAE encoder, denoiser and text encoder as one module."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.passes import Passes
from tadp.diffusion.families import family_of
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import ModelError
from tadp.images.reading import crop_to_cells
from tadp.text.conditioning import Conditioning, TextAdapter
from tadp.text.stack import AnyText, text_encoder_of
from tadp.training.schedules import decay_groups

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from transformers import CLIPTextModel, CLIPTokenizer

Parts = TypeVar("Parts", bound="ModelParts")


class ModelParts(nn.Module):
    """The networks of a diffusion model: what of them is frozen, what trains, and where they are.

    The VAE and the text encoder are frozen; the denoiser trains, unless `freeze()` is called. `TADPBackbone` adds the
    options, and the text of a call.

    Args:
        vae: An `AutoencoderKL` or `AutoencoderTiny`, of which the encoder is used.
        unet: The denoiser.
        text_encoder: A CLIP text model, the `TextStack` of a model with several, or None.
        tokenizer: The CLIP text model's tokenizer.
        text_adapter: Whether VPD's gated adapter trains on the text.
        blocks: Numbers of a transformer's blocks that become levels; None for the family's own.

    Attributes:
        family: What differs between base models, for this one.
        layout: Levels and widths of the denoiser.

    Raises:
        ModelError: If the parts do not fit each other, or the denoiser is of an unknown kind.
    """

    def __init__(
        self,
        *,
        vae: "AutoencoderKL | AutoencoderTiny | AnyVAE",
        unet: nn.Module,
        text_encoder: "CLIPTextModel | AnyText | None",
        tokenizer: "CLIPTokenizer | None",
        text_adapter: bool,
        blocks: Sequence[int] | None,
    ):
        super().__init__()
        self.vae = encoder_of(vae)
        self.unet = unet
        self.family = family_of(unet)
        self.layout = self.family.read_layout(unet, blocks)
        self.text_encoder = text_encoder_of(text_encoder, tokenizer)
        self._check_parts()
        self.text_adapter = None
        if text_adapter:
            self.text_adapter = TextAdapter(self.layout.text_width).to(self.device, self.dtype)
        self.family.prepare(unet, self.layout)
        self.vae.requires_grad_(False)
        if self.text_encoder is not None:
            self.text_encoder.requires_grad_(False)
        self.train(self.training)

    @property
    def device(self) -> torch.device:
        """The device of the U-Net."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the U-Net."""
        return next(self.unet.parameters()).dtype

    def encode_text(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """τ of the paper: CLIP's last hidden state, (B, 77, 768) for Stable Diffusion 1.5, and what its tokens are.

        Args:
            captions: One text or several; "" is the empty prompt.
            truncate: Cut captions over the limit, with a warning, rather than refuse them.
            mask_padding: Attend only to real tokens; Stable Diffusion was trained without this.

        Raises:
            CaptionError: If a caption is too long; the message counts its tokens.
            ModelError: If the backbone has no text encoder.
        """
        if self.text_encoder is None:
            raise ModelError("this backbone has no text encoder; pass text as Conditioning, or load one.")
        with torch.no_grad():
            return self.text_encoder(captions, truncate=truncate, mask_padding=mask_padding)

    def levels(
        self, latents: Float[Tensor, "b c h w"], text: Conditioning, passes: Passes, *, image_size: tuple[int, int]
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The maps and the attention of each level, apart, and nothing but tensors; also of symbolic sizes.

        Args:
            latents: (B, C, H, W), clean.
            text: One text, or one per image.
            passes: What is run, and which attention is recorded.
            image_size: (height, width) in pixels before padding, to which maps are cropped.

        Raises:
            ValueError: If the text has another width or length.
            CaptionError: If there are neither one nor B texts.
        """
        passes.options.check_text(text, self.layout)
        tensors = Conditioning(text.embeddings, mask=text.mask, pooled=text.pooled).to(latents.device, self.dtype)
        if self.text_adapter is not None:
            tensors = self.text_adapter(tensors)
        one_pass = partial(
            self.family.run_once,
            self.unet,
            self.layout,
            text=tensors.expand(latents.shape[0]),
            image_size=image_size,
            record_levels=passes.options.attention_levels,
        )
        maps, attention = passes.run(one_pass, latents, self.dtype)
        strides = [self.vae.reduction * cells for cells in self.layout.reduction]
        maps = [crop_to_cells(one, image_size, stride) for one, stride in zip(maps, strides, strict=True)]
        return maps, {level: crop_to_cells(one, image_size, strides[level]) for level, one in attention.items()}

    def train(self: Parts, mode: bool = True) -> Parts:
        """Set training mode; the frozen VAE and text encoder stay in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def freeze(self: Parts) -> Parts:
        """Stop the U-Net's gradients, for a head on fixed features; the text adapter, if any, still trains."""
        self.unet.requires_grad_(False)
        return self

    def unfreeze(self: Parts) -> Parts:
        """Train the U-Net again, all but the layers after the last map, which never run."""
        self.unet.requires_grad_(True)
        self.family.freeze_unused(self.unet, self.layout)
        return self

    def enable_gradient_checkpointing(self: Parts, enabled: bool = True) -> Parts:
        """Trade time for memory in training: the U-Net's blocks are run again during backward."""
        self.family.set_checkpointing(self.unet, enabled)
        return self

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: what trains, by learning rate, without decay on norms and biases.

        Args:
            lr: Learning rate of the text adapter; the U-Net gets `unet_scale` of it.
            unet_scale: 0.1 in the released segmentation code.
            weight_decay: Decay of matrices and kernels; 5e-3 in the released segmentation code.
        """
        groups = decay_groups(self.unet, lr=lr * unet_scale, weight_decay=weight_decay)
        if self.text_adapter is not None:
            groups += decay_groups(self.text_adapter, lr=lr, weight_decay=weight_decay)
        return groups

    def _check_parts(self) -> None:
        """The denoiser takes the VAE's latents and the text encoder's embeddings, or a ModelError."""
        made, taken = self.vae.config["latent_channels"], self.layout.latent_channels
        if made != taken:
            raise ModelError(
                f"the VAE makes {made} latent channels, the model takes {taken}; use a pair trained together."
            )
        text = self.text_encoder
        if text is None:
            return
        if text.width != self.layout.text_width:
            raise ModelError(
                f"the text encoder is {text.width} wide, the model takes {self.layout.text_width}; use a pair trained "
                "together."
            )
        if self.layout.pooled_width is not None and text.pooled_width != self.layout.pooled_width:
            raise ModelError(
                f"the text encoder pools a text to a width of {text.pooled_width}, the model takes "
                f"{self.layout.pooled_width}; use a pair trained together."
            )
