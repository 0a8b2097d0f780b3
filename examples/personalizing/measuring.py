"""The runs in a folder, and what is measured of them: losses of held-out images, colour and texture of samples."""

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

# Of each seed of the study, beside its ten images: held-out ones, and captions to draw.
HELD_OUT, DRAWN = 2_000, 3_000


class Study:
    """The runs in a folder, and what was measured of them."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.model = options, load_diffusion(options.model)
        self.folder: Path = options.out
        self.size = self.model.side_px  # of all scenes
        self.sampler = Sampler(self.model)

    def setting(self, method: str) -> Setting:
        """How a method learns: as chosen for tadp-tiny, or with the rate that was given."""
        return CHOSEN[method] if self.options.lr is None else CHOSEN[method]._replace(lr=self.options.lr)

    def runs(self, setting: Setting, style: str, seed: int) -> Path:
        return self.folder / "runs" / f"{style}-{seed}-{setting.name}"

    def learned(self, setting: Setting, style: str, seed: int) -> CaptionModifier:
        folder, steps = self.runs(setting, style, seed), self.options.steps
        return learn(setting, style, seed, output=folder, steps=steps, model=self.options.model, size=self.size)

    def modifier(self, condition: str, style: str, seed: int) -> CaptionModifier:
        """Of a condition, for a style: what a method learned of it, or fixed words."""
        return self.learned(self.setting(condition), style, seed) if condition in METHODS else fixed(condition, style)

    def losses(self, modifier: CaptionModifier, style: str, seed: int) -> list[float]:
        """The denoising loss of each held-out image; noise and times are the same under each modifier."""
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
        """Samples of captions, each from its own noise, the same under each modifier: (N, H, W, 3)."""
        captions = [scene.caption() for scene in Scenes(self.options.samples, seed=DRAWN + seed)]
        images = []
        with modifier.install(self.model.backbone):
            for start in range(0, len(captions), 8):
                texts = modifier(captions[start : start + 8])
                keys = [(seed, start + number) for number in range(len(texts))]
                images += self.sampler.draw(texts, keys=keys, steps=self.options.denoising_steps)
        return np.stack(images)

    def targets(self, style: str, seed: int) -> np.ndarray:
        """Held-out images as the VAE gives them back, twice as many as samples, since it blurs whatever it draws."""
        scenes = Scenes(2 * self.options.samples, seed=HELD_OUT + seed, style=style, size=self.size)
        return reconstructed(self.model, scenes)

    def distances(self, drawn: np.ndarray, style: str, seed: int) -> dict[str, float]:
        """From the first half of the targets; also how far their halves are apart, which is what chance makes."""
        targets = kept_array(self.folder / "targets" / f"{style}-{seed}.npy", lambda: self.targets(style, seed))
        one, other = targets[: len(targets) // 2], targets[len(targets) // 2 :]
        return {
            "colour": colour_distance(drawn, one), "texture": texture_distance(drawn, one),
            "colour of halves": colour_distance(other, one), "texture of halves": texture_distance(other, one),
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
    """Images through the VAE and back, (N, H, W, 3)."""
    vae = AutoencoderKL.from_pretrained(model.folder, subfolder="vae").float().eval()
    made = []
    for scene in scenes:
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        made.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy())
    return np.stack(made)
