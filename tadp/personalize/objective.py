"""The training objective, which is the denoising error that the model itself was trained with. To measure it:

    plain = denoising_loss("tadp-tiny", images, captions="a scene")
    learned = denoising_loss("tadp-tiny", images, captions="a scene", modifier=modifier)

Both tensors have one entry per image, so they can be compared image by image.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tadp.errors import CaptionError
from tadp.files.checks import check_counts
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
    """The mean squared error of each image's denoising.

    Args:
        model: The model, which predicts the noise or the velocity, as its scheduler says.
        latents: Scaled latents.
        noise: Unit noise of the same shape.
        timesteps: Timesteps counted from 0, on the CPU or the model's device.
        embeddings: Embeddings of each image's text.

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
    """The denoising error of a model on images, given their captions.

    Timesteps are spread evenly over those of training, and the noise depends only on the seed, so two captions or two
    modifiers can be compared fairly.

    Args:
        model: The name of a model, or the result of `load_diffusion`.
        images: Held-out images, in any form that `learn_token` takes; the central square of each is used.
        captions: One caption per image, or one for all images.
        modifier: A modifier that rewrites the captions and is installed while the loss is measured.
        draws: Pairs of timestep and noise per image.
        seed: Seed of the noise.
        side_px: Side of the squares in pixels; None is the size that the model was trained on.
        batch_size: Noisy images per forward pass.

    Returns:
        The mean error of each image over its draws, (N,), on the CPU.

    Raises:
        CaptionError: If there is neither one caption for all images nor one per image.
        ImageError: If an image cannot be read.
        ModelError: If the model cannot be used.

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
