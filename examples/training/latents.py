"""Latents of all images and of their mirror images, encoded once: the VAE is more than half of the work."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tadp.backbone import TADPBackbone
from tadp.datasets import RandomFlip, Sample
from tadp.files.atomic import replace_file
from tadp.images import to_tensor

_FLIP = RandomFlip(1.0)


class WithLatents:
    """Samples, each with the latents of its image; mirrored at random, both together.

    The random numbers of item i in epoch e are those that `Augmented(data, [RandomFlip()])` draws.

    Args:
        data: Images of one size.
        latents: (N, 2, C, h, w): of each image, and of its mirror image.
        seed: As in `Augmented`.
        flip: How often to mirror.
    """

    def __init__(self, data: Sequence[Sample], latents: Tensor, *, seed: int, flip: float = 0.5):
        self.data, self.latents, self.seed, self.flip = data, latents, seed, RandomFlip(flip)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other numbers from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Sample, Tensor]:
        sample = self.data[index]
        seen = self.flip(sample, np.random.default_rng((self.seed, self.epoch, index)))
        return seen, self.latents[index, int(seen is not sample)]


def cached_latents(
    backbone: TADPBackbone, data: Sequence[Sample], path: Path, accelerator: Accelerator, *, batch: int = 16
) -> Tensor:
    """Latents (N, 2, C, h, w) from a file, which is made if it is not there or is of other images or another model.

    Args:
        backbone: Its VAE encodes.
        data: Images of one size, with `image_ids`.
        path: The file.
        accelerator: One process encodes.
        batch: Images at once.
    """
    told = {"made_from": _fingerprint(backbone, data.image_ids)}
    if accelerator.is_main_process and _told(path) != told:
        made = torch.cat([_encode(backbone, data, part) for part in _parts(len(data), batch)])
        with replace_file(path) as part:
            save_file({"latents": made}, part, metadata=told)
    accelerator.wait_for_everyone()
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents")


@torch.no_grad()
def _encode(backbone: TADPBackbone, data: Sequence[Sample], part: range) -> Tensor:
    plain = [data[index] for index in part]
    mirrored = [_FLIP(sample, np.random.default_rng(0)) for sample in plain]
    both = [
        backbone.encode_image(torch.cat([to_tensor(sample.image) for sample in samples])).float().cpu()
        for samples in (plain, mirrored)
    ]
    return torch.stack(both, dim=1)


def _parts(count: int, size: int) -> tqdm:
    parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return tqdm(parts, desc="encoding images", disable=count < 100)


def _fingerprint(backbone: TADPBackbone, image_ids: Sequence[str]) -> str:
    """Of the encoder's weights, what is done with its output, and the images' names."""
    digest = hashlib.sha256(repr((backbone.scale_latents, list(image_ids))).encode())
    for name, tensor in backbone.vae.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    return digest.hexdigest()


def _told(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return file.metadata()
