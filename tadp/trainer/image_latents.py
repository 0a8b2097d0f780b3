"""Latents of all images and of their mirror images, encoded only once. The VAE does more than half of the work."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.datasets import RandomFlip, Sample
from tadp.datasets.transforms.augmented import SampleSource
from tadp.files.atomic import replace_file
from tadp.files.progress import tracked
from tadp.images import to_tensor
from tadp.trainer.processes import Accelerator

_FLIP = RandomFlip(1.0)


class WithLatents:
    """Samples with the latents of their images. Both are mirrored together at random.

    Sample i in epoch e is mirrored exactly when `Augmented(data, [RandomFlip()])` would mirror it.

    Args:
        data: Images of one size.
        latents: Latents of each image and of its mirror image, (N, 2, C, h, w).
        seed: Seed of the random numbers. See `Augmented`.
        flip: Probability of mirroring.
    """

    def __init__(self, data: SampleSource, latents: Tensor, *, seed: int, flip: float = 0.5):
        self.data, self.latents, self.seed, self.flip = data, latents, seed, RandomFlip(flip)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the random numbers of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Sample, Tensor]:
        sample = self.data[index]
        flipped = self.flip(sample, np.random.default_rng((self.seed, self.epoch, index)))
        return flipped, self.latents[index, int(flipped is not sample)]


def cached_latents(
    backbone: TADPBackbone, data: Any, path: Path, accelerator: Accelerator, *, batch: int = 16
) -> Tensor:
    """Return the latents in a file, (N, 2, C, h, w); it is made if it is missing, or for other images or weights.

    Args:
        backbone: The backbone whose VAE encodes the images.
        data: Images of one size, with `image_ids`.
        path: Path of the file.
        accelerator: The accelerator. Only its main process encodes.
        batch: Images at a time.
    """
    origin = {"made_from": _fingerprint(backbone, data.image_ids)}
    if accelerator.is_main_process and _origin(path) != origin:
        starts = range(0, len(data), batch)
        parts = [
            _encode(backbone, data, range(start, min(start + batch, len(data))))
            for start in tracked(starts, len(starts), what="encoding images", unit="batch")
        ]
        latents = torch.cat(parts)
        with replace_file(path) as part:
            save_file({"latents": latents}, part, metadata=origin)
    accelerator.wait_for_everyone()
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents")


@torch.no_grad()
def _encode(backbone: TADPBackbone, data: SampleSource, part: range) -> Tensor:
    plain = [data[index] for index in part]
    mirrored = [_FLIP(sample, np.random.default_rng(0)) for sample in plain]
    both = [
        backbone.encode_image(torch.cat([to_tensor(sample.image) for sample in samples])).float().cpu()
        for samples in (plain, mirrored)
    ]
    return torch.stack(both, dim=1)


def _fingerprint(backbone: TADPBackbone, image_ids: Sequence[str]) -> str:
    """A hash of the encoder's weights, the scaling of latents, and the image ids."""
    digest = hashlib.sha256(repr((backbone.scale_latents, list(image_ids))).encode())
    for name, tensor in backbone.vae.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    return digest.hexdigest()


def _origin(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return file.metadata()
