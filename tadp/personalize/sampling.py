"""Draw images from a diffusion model, and sheets of them: the only place in tadp that needs the VAE's decoder."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadp.diffusion.noise import NOISE_KEYS
from tadp.drawing import sheet
from tadp.errors import Argument, MissingFileError
from tadp.files.atomic import replace_file
from tadp.files.checks import check_counts, check_whole
from tadp.files.hub import part_variant, weight_files
from tadp.files.model_folder import WEIGHTS, read_tensors
from tadp.modifiers import CaptionModifier
from tadp.personalize.trained_model import DiffusionModel, load_diffusion
from tadp.text.encoder import check_captions

STEPS = 25  # used by the released script for samples during training
GUIDANCE = 4.0  # suits tadp-tiny; 7.5 is usual for Stable Diffusion
COLUMNS = 4  # samples per row of a sheet


class Sampler:
    """Draws images with a model in its current state.

    Args:
        model: The model; its folder must have the VAE's decoder.

    Raises:
        MissingFileError: If the VAE has no decoder.
    """

    def __init__(self, model: DiffusionModel):
        self._model = model
        self._vae = _load_decoder(model)

    @torch.no_grad()
    def draw(
        self,
        texts: Sequence[str],
        *,
        keys: Sequence[tuple[int, ...]],
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        side_px: int | None = None,
    ) -> list[Image.Image]:
        """Draw one image per text, by DDIM with classifier-free guidance.

        Args:
            texts: The texts of the images.
            keys: For each image, the seed of its noise: a tuple of numbers such as (seed, index).
            steps: Number of denoising steps.
            guidance: Scale of the classifier-free guidance; 1 disables it.
            side_px: Side of the images in pixels; None is the size of the model's training images.
        """
        model = self._model
        device = model.backbone.device
        cells = (
            model.side_px if side_px is None else check_whole(side_px, name="side_px", unit="pixel")
        ) // model.backbone.vae.reduction
        shape = (model.backbone.layout.latent_channels, cells, cells)
        noise = [np.random.default_rng(key).standard_normal(shape, dtype=np.float32) for key in keys]
        latents: Tensor = torch.from_numpy(np.stack(noise)).to(device)
        embeddings = model.text_encoder([*texts, *[""] * len(texts)]).embeddings
        schedule = _ddim(model, steps)
        for time in schedule.timesteps:
            times = time.to(device).expand(2 * len(texts))
            with_text, without = model.predict(torch.cat([latents, latents]), times, embeddings).chunk(2)
            latents = schedule.step(without + guidance * (with_text - without), time, latents).prev_sample
        pixels = self._vae.decode(latents / model.backbone.vae.scaling_factor).sample
        levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(pixels) for pixels in levels]


class SampleSheets:
    """Draws sample sheets during training. Each sheet has images of the same prompts, after another number of steps.

    The files are FOLDER/step-00000100.png and so on. All sheets use the same noise, so that they can be compared.

    Args:
        folder: The folder to write the sheets to.
        sampler: The sampler that draws the images.
        prompts: The prompts, one per row of a sheet.
        seed: Seed of the noise.
        side_px: Side of an image in pixels.
    """

    def __init__(self, folder: Path, sampler: Sampler, *, prompts: Sequence[str], seed: int, side_px: int):
        self._folder, self._sampler = folder, sampler
        self._prompts, self._seed, self._side_px = list(prompts), seed, side_px

    def path(self, step: int) -> Path:
        """The file of a step's sheet."""
        return self._folder / f"step-{step:08}.png"

    def write(self, step: int) -> None:
        """Draw and write the sheet of a step.

        Raises:
            OutputError: If the sheet cannot be written.
        """
        keys = [(self._seed, column) for column in range(COLUMNS)]
        rows = [self._sampler.draw([text] * COLUMNS, keys=keys, side_px=self._side_px) for text in self._prompts]
        with replace_file(self.path(step)) as part:
            sheet(rows, labels=self._prompts, title=f"step {step}").save(part, format="PNG")


def draw(
    model: str | Path | DiffusionModel,
    prompts: str | Sequence[str],
    *,
    modifier: CaptionModifier | None = None,
    count: int = 1,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    side_px: int | None = None,
    batch_size: int = 8,
) -> list[Image.Image]:
    """Draw images from prompts, with or without a modifier.

    Args:
        model: The name of a model, or the result of `load_diffusion`.
        prompts: One text or several. With a modifier, they are captions that the modifier rewrites.
        modifier: A modifier to install while the images are drawn; None for no modifier.
        count: Number of images per prompt. The k-th image of every prompt starts from the same noise.
        seed: Seed of the noise.
        steps: Number of denoising steps.
        guidance: Scale of the classifier-free guidance; 1 disables it.
        side_px: Side of the images in pixels; None is the size of the model's training images.
        batch_size: Number of images per forward pass.

    Returns:
        All images of the first prompt, then all images of the next, and so on.

    Raises:
        MissingFileError: If the model's VAE has no decoder.
        CaptionError: If a prompt is too long.
        ValueError: If `count`, `steps` or `batch_size` is below 1.

    Example:
        >>> [image.size for image in draw("tadp-tiny", "a red car on a street", steps=1)]
        [(128, 128)]
    """
    check_counts(count=count, steps=steps, batch_size=batch_size)
    model = model if isinstance(model, DiffusionModel) else load_diffusion(model)
    sampler = Sampler(model)
    with modifier.install(model.backbone) if modifier else nullcontext():
        written = modifier(prompts) if modifier else check_captions(prompts)
        texts = [text for text in written for _ in range(count)]
        keys = [(seed, number) for _ in written for number in range(count)]
        images: list[Image.Image] = []
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            images += sampler.draw(texts[part], keys=keys[part], steps=steps, guidance=guidance, side_px=side_px)
    return images


def _ddim(model: DiffusionModel, steps: int) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    noise = {key: model.noise.config[key] for key in NOISE_KEYS}
    schedule = DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    schedule.set_timesteps(steps)
    return schedule


def _load_decoder(model: DiffusionModel) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = model.folder / "vae"
    variant = part_variant(folder, WEIGHTS["vae"], model.variant)
    files = weight_files(folder, WEIGHTS["vae"], variant)
    if next(read_tensors(files, lambda key: key.startswith("decoder.conv_in.")), None) is None:
        raise MissingFileError(
            f"the VAE in {folder} has no decoder, because tadp saves backbones without it, so nothing can be drawn. "
            "Pass the model that the backbone was loaded from, or ",
            Argument("sample_every", 0),
            " to train without samples.",
        )
    vae: Any = AutoencoderKL.from_pretrained(
        model.folder, subfolder="vae", variant=variant, use_safetensors=True, local_files_only=True
    )
    del vae.encoder
    return vae.float().to(model.backbone.device).eval().requires_grad_(False)
