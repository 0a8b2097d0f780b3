"""The runs in a folder and their measurements: losses of held-out images, colour and texture of samples."""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from personalizing.conditions import METHODS, fixed
from personalizing.files import file_name, kept_array, read_json, write_json
from personalizing.learning import CHOSEN, Setting, learn
from personalizing.statistics import colour_distance, texture_distance
from tadp import CaptionModifier
from tadp.datasets.scenes import Scenes, restyle
from tadp.personalize import DiffusionModel, denoising_loss, load_diffusion
from tadp.personalize.sampling import Sampler

# Added to each seed of the study: the seeds of held-out images, and of captions to draw.
HELD_OUT, DRAWN = 2_000, 3_000


class Study:
    """The runs in a folder and their measurements."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.model = options, load_diffusion(options.model)
        self.folder: Path = options.out
        self.size = self.model.side_px  # side of all scenes
        self.sampler = Sampler(self.model)

    def setting(self, method: str) -> Setting:
        """The setting of a method: the one chosen for tadp-tiny, with another learning rate if --lr is given."""
        return CHOSEN[method] if self.options.lr is None else CHOSEN[method]._replace(lr=self.options.lr)

    def runs(self, setting: Setting, style: str, seed: int) -> Path:
        return self.folder / "runs" / f"{style}-{seed}-{setting.name}"

    def learned(self, setting: Setting, style: str, seed: int) -> CaptionModifier:
        folder, steps = self.runs(setting, style, seed), self.options.steps
        return learn(setting, style, seed, output=folder, steps=steps, model=self.options.model, size=self.size)

    def modifier(self, condition: str, style: str, seed: int) -> CaptionModifier:
        """The modifier of a condition: learned from the style, or fixed words."""
        return self.learned(self.setting(condition), style, seed) if condition in METHODS else fixed(condition, style)

    def losses(self, modifier: CaptionModifier, style: str, seed: int) -> list[float]:
        """The denoising loss of each held-out image, with the same noise and timesteps for each modifier."""
        scenes = Scenes(self.options.images, seed=HELD_OUT + seed, style=style, size=self.size)[:]
        captions = [restyle(scene.layout, "plain").render().caption() for scene in scenes]
        return denoising_loss(
            self.model,
            [scene.image for scene in scenes],
            captions=captions,
            modifier=modifier,
            draws=self.options.draws,
            seed=seed,
            batch_size=16,
        ).tolist()

    def drawn(self, modifier: CaptionModifier, seed: int) -> np.ndarray:
        """Samples for the captions, each from its own noise, which is the same for each modifier, (N, H, W, 3)."""
        captions = [scene.caption() for scene in Scenes(self.options.samples, seed=DRAWN + seed)]
        images = []
        with modifier.install(self.model.backbone):
            for start in range(0, len(captions), 8):
                texts = modifier(captions[start : start + 8])
                keys = [(seed, start + number) for number in range(len(texts))]
                images += self.sampler.draw(texts, keys=keys, steps=self.options.denoising_steps)
        return np.stack(images)

    def targets(self, style: str, seed: int) -> np.ndarray:
        """Held-out images after the VAE, which blurs all samples as well. There are twice as many as samples."""
        scenes = Scenes(2 * self.options.samples, seed=HELD_OUT + seed, style=style, size=self.size)
        return reconstructed(self.model, scenes)

    def distances(self, drawn: np.ndarray, style: str, seed: int) -> dict[str, float]:
        """Distances from the first half of the targets, and between their halves, which shows the effect of chance."""
        targets = kept_array(self.folder / "targets" / f"{style}-{seed}.npy", lambda: self.targets(style, seed))
        first, second = targets[: len(targets) // 2], targets[len(targets) // 2 :]
        return {
            "colour": colour_distance(drawn, first), "texture": texture_distance(drawn, first),
            "colour of halves": colour_distance(second, first), "texture of halves": texture_distance(second, first),
        }  # fmt: skip

    def losses_file(self, name: str, style: str, seed: int) -> Path:
        return self.folder / "losses" / f"{file_name(name)}-{style}-{seed}.json"

    def kept_losses(self, name: str, style: str, seed: int) -> list[float]:
        file = self.losses_file(name, style, seed)
        if not file.exists():
            condition, _, other = name.partition(" of ")
            write_json(file, self.losses(self.modifier(condition, other or style, seed), style, seed))
        return read_json(file)

    def samples_file(self, condition: str, style: str, seed: int) -> Path:
        return self.folder / "samples" / f"{file_name(condition)}-{style}-{seed}.npy"

    def samples(self, condition: str, style: str, seed: int) -> np.ndarray:
        return kept_array(
            self.samples_file(condition, style, seed),
            lambda: self.drawn(self.modifier(condition, style, seed), seed),
        )


@torch.no_grad()
def reconstructed(model: DiffusionModel, scenes: Scenes) -> np.ndarray:
    """Images after encoding and decoding by the VAE, (N, H, W, 3)."""
    vae = AutoencoderKL.from_pretrained(model.folder, subfolder="vae").float().eval()
    images = []
    for scene in scenes:
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        images.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy())
    return np.stack(images)
