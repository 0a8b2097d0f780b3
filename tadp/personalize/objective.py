"""The training objective: the denoising error with which the model itself was trained.

It can also be measured, for example to compare a model with and without a modifier image by image:

    plain = denoising_loss("tadp-tiny", images, captions="a scene")                           # one value per image
    learned = denoising_loss("tadp-tiny", images, captions="a scene", modifier=modifier)
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tadp.errors import CaptionError, ImageError
from tadp.files.checks import check_counts
from tadp.files.weight_values import is_finite
from tadp.modifiers import CaptionModifier
from tadp.personalize.trained_model import DiffusionModel, load_diffusion
from tadp.personalize.training_images import Crop, Images, TrainingImages, read_images

_KEPT_POSTERIORS = 1024  # 64 x 64 cells each are 134 MB


class Latents:
    """Latents of square crops of images. A crop is encoded once, and its posterior is sampled every time.

    Args:
        model: The model with the VAE.
        images: The images.
    """

    def __init__(self, model: DiffusionModel, images: TrainingImages):
        self._model, self._images = model, images
        self._kept: dict[Crop, tuple[Tensor, Tensor]] = {}

    def sample(self, crops: Sequence[Crop], noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scaled latents, float32, on the model's device.

        Args:
            crops: The square crops.
            noise: Unit noise that selects a sample of each posterior; zeros select its mode.
        """
        posteriors = [self._posterior(crop) for crop in crops]
        mean, std = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
        latents = (mean + std * noise) * self._model.backbone.vae.scaling_factor
        return latents.to(self._model.backbone.device)

    def _posterior(self, crop: Crop) -> tuple[Tensor, Tensor]:
        if crop not in self._kept:
            backbone = self._model.backbone
            pixels = self._images.cut(crop).to(backbone.device, next(backbone.vae.parameters()).dtype)
            # one at a time, so that the latents of a crop do not depend on other crops
            with torch.no_grad():
                posterior = backbone.vae(pixels * 2 - 1)
            if not (is_finite(posterior.mean) and is_finite(posterior.std)):
                raise ImageError(
                    f"the VAE computes NaN or infinity for training image {crop.index} (counted from 0). In float16 it "
                    "can overflow; use float32 or bfloat16."
                )
            if len(self._kept) >= _KEPT_POSTERIORS:
                self._kept.clear()
            self._kept[crop] = posterior.mean.float().cpu(), posterior.std.float().cpu()
        return self._kept[crop]


def denoising_losses(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    *,
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    embeddings: Float[Tensor, "b l d"],
) -> Float[Tensor, " b"]:
    """Compute the mean squared error of the model's prediction of the noise, or of the velocity, for each image.

    Args:
        model: The model. Its scheduler determines whether it predicts the noise or the velocity.
        latents: Latents without noise, (B, C, H, W), multiplied by the VAE's scaling factor.
        noise: The noise to add, of unit variance, (B, C, H, W).
        timesteps: Timestep of each image, (B,), counted from 0, on the CPU or the model's device.
        embeddings: Embeddings of each image's text, (B, L, D).

    Source:
        Ho et al. 2020, L_simple; Salimans and Ho 2022, App. D, for the velocity.
    """
    noise, timesteps = noise.to(latents.device), timesteps.to(latents.device)
    noisy = model.noise.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType]
    velocity = model.noise.config["prediction_type"] == "v_prediction"
    target = model.noise.get_velocity(latents, noise, timesteps) if velocity else noise  # pyright: ignore[reportArgumentType]
    return (model.predict(noisy, timesteps, embeddings) - target).square().mean(dim=(1, 2, 3))


def denoising_loss(
    model: str | Path | DiffusionModel,
    images: Images,
    *,
    captions: str | Sequence[str],
    modifier: CaptionModifier | None = None,
    draws: int = 16,
    seed: int = 0,
    side_px: int | None = None,
    batch_size: int = 8,
) -> Float[Tensor, " n"]:
    """Measure the denoising error of a model on images, given their captions.

    Timesteps are spread evenly over those of the model's training, and the noise only depends on the seed. So the
    errors under two captions or two modifiers can be compared.

    Args:
        model: The name of a model, or the result of `load_diffusion`.
        images: Images that were not used in training: a folder, a pattern, a list of paths, PIL images, arrays or
            tensors, or a batch. The central square of each is used.
        captions: One caption per image, or one caption for all images.
        modifier: A modifier that rewrites the captions and is installed during the measurement; None for no modifier.
        draws: Number of pairs of timestep and noise per image over which the error is averaged.
        seed: Seed of the noise.
        side_px: Side of the squares in pixels; None is the size of the model's training images.
        batch_size: Number of noisy images per forward pass.

    Returns:
        The mean error of each of the N images over its draws, (N,), on the CPU.

    Raises:
        CaptionError: If the number of captions is neither one nor that of the images.
        ImageError: If an image cannot be read.
        ModelError: If the model is not available, lacks a part, or predicts neither noise nor velocity.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> losses = denoising_loss("tadp-tiny", [Scenes(1, seed=0)[0].image], captions="a scene", draws=2)
        >>> bool(losses.item() > 0)
        True
    """
    check_counts(draws=draws, batch_size=batch_size)
    model = model if isinstance(model, DiffusionModel) else load_diffusion(model)
    held_out = read_images(images, side_px=side_px or model.side_px, random_crop=False, flip=False)
    texts = [captions] * len(held_out) if isinstance(captions, str) else list(captions)
    if len(texts) != len(held_out):
        raise CaptionError(f"{len(held_out)} images but {len(texts)} captions; pass one per image, or one for all.")
    steps = model.noise.config["num_train_timesteps"]
    with torch.no_grad(), modifier.install(model.backbone) if modifier else nullcontext():
        words = modifier(texts) if modifier else texts
        return torch.stack(
            [
                _loss_of(model, held_out, number, words[number], draws, steps, seed, batch_size)
                for number in range(len(held_out))
            ]
        )


def _loss_of(
    model: DiffusionModel,
    images: TrainingImages,
    index: int,
    text: str,
    draws: int,
    steps: int,
    seed: int,
    batch_size: int,
) -> Float[Tensor, ""]:
    posterior = Latents(model, images)
    cells = images.side_px // model.backbone.vae.reduction
    shape = (1, model.backbone.layout.latent_channels, cells, cells)
    latents = posterior.sample([images.middle(index)], torch.zeros(shape))
    noise = np.random.default_rng((seed, index)).standard_normal((draws, *shape[1:]), dtype=np.float32)
    times = torch.tensor([int((number + 0.5) / draws * steps) for number in range(draws)])
    embeddings = model.text_encoder(text).embeddings
    losses = [
        denoising_losses(
            model,
            latents.expand(len(part), -1, -1, -1),
            noise=torch.from_numpy(noise[start : start + batch_size]),
            timesteps=part,
            embeddings=embeddings.expand(len(part), -1, -1),
        )
        for start in range(0, draws, batch_size)
        for part in [times[start : start + batch_size]]
    ]
    return torch.cat(losses).mean().cpu()
