"""Memory of a pass: counted with fake tensors, and measured with random weights."""

import resource
import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .models import build, count, inputs, run, tensors


class PeakBytes(TorchDispatchMode):
    """Bytes of the tensors that are alive, at most, of those that were made within the block."""

    def __init__(self, given: Any):
        super().__init__()
        self.given = {one.untyped_storage()._cdata for one in given}
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                key = storage._cdata
                if key not in self.given and key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def peak_bytes(family: dict[str, Any], side_px: int, dtype: torch.dtype) -> int:
    """Of one image's pass without a gradient, weights apart: the larger of VAE and denoiser, which run in turn."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # fake tensors cannot be converted
    try:
        with FakeTensorMode(), torch.no_grad():
            vae, denoiser = build(family)
            pixels, latents, text = inputs(family, vae, denoiser, side_px)
            with PeakBytes([*tensors(vae), pixels]) as encoding:
                vae(pixels)
            with PeakBytes([*tensors(denoiser), latents]) as passing:
                run(denoiser, latents, text, side_px)
    finally:
        torch.set_default_dtype(default)
    return max(encoding.peak, passing.peak)


def real_pass(family: dict[str, Any], side_px: int) -> str:
    """A pass in float32 with random weights on this machine; how far the process grew, and what was counted."""
    with torch.device("meta"):
        vae, denoiser = build(family)
    vae, denoiser = (part.to_empty(device="cpu") for part in (vae, denoiser))
    for parameter in (*vae.parameters(), *denoiser.parameters()):
        parameter.data.normal_(std=0.01)
    pixels, latents, text = inputs(family, vae, denoiser, side_px)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with torch.no_grad():
        vae(pixels)
        run(denoiser, latents, text, side_px)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    weights = 4 * (count(vae) + count(denoiser))
    counted = peak_bytes(family, side_px, torch.float32)
    return (
        f"{family['name']}, float32: weights {weights / 1e9:.2f} GB; a pass grew the process by {grown / 1e9:.2f} GB; "
        f"{counted / 1e9:.2f} GB of tensors were counted"
    )
