"""The memory of a pass: counted with fake tensors, or measured with random weights."""

import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .models import build, inputs, run, tensors


class PeakBytes(TorchDispatchMode):
    """The peak of the bytes of all live tensors that were made within the block.

    Args:
        inputs: Tensors that do not count.
    """

    def __init__(self, inputs: Any):
        super().__init__()
        self.ignored = {tensor.untyped_storage()._cdata for tensor in inputs}
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.ignored and key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def peak_bytes(family: dict[str, Any], side_px: int, dtype: torch.dtype) -> int:
    """Peak of a pass without gradients, without the weights: the larger of VAE and denoiser, which run in turn."""
    with default_dtype(dtype), FakeTensorMode(), torch.no_grad():  # fake tensors cannot be converted
        vae, denoiser = build(family)
        pixels, latents, text = inputs(family, vae, denoiser, side_px)
        with PeakBytes([*tensors(vae), pixels]) as encoding:
            vae(pixels)
        with PeakBytes([*tensors(denoiser), latents]) as passing:
            run(denoiser, latents, text, side_px)
    return max(encoding.peak, passing.peak)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors with this dtype within the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def real_pass(family: dict[str, Any], side_px: int, device: str = "cpu") -> str:
    """Run a pass with random weights (float32 on a CPU, bfloat16 on a GPU); report measured and counted memory."""
    gpu = device.startswith("cuda")
    dtype = torch.bfloat16 if gpu else torch.float32
    with torch.device("meta"), default_dtype(dtype):
        vae, denoiser = build(family)
    vae, denoiser = (part.to_empty(device=device) for part in (vae, denoiser))
    for tensor in tensors(vae) + tensors(denoiser):
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.01)
    pixels, latents, text = inputs(family, vae, denoiser, side_px)
    pixels, latents, text = pixels.to(device, dtype), latents.to(device, dtype), text.to(device, dtype=dtype)
    before = _bytes(gpu)
    with torch.no_grad():
        vae(pixels)
        run(denoiser, latents, text, side_px)
    grown = _bytes(gpu) - before
    weights = sum(tensor.nbytes for tensor in tensors(vae) + tensors(denoiser))
    counted = peak_bytes(family, side_px, dtype)
    where = torch.cuda.get_device_name() if gpu else "a CPU"
    return (
        f"{family['name']}, {str(dtype).removeprefix('torch.')} on {where}: weights {weights / 1e9:.2f} GB; a pass "
        f"took {grown / 1e9:.2f} GB more, and {counted / 1e9:.2f} GB of tensors were counted"
    )


def _bytes(gpu: bool) -> int:
    """The peak memory of this process so far: of the GPU, or resident."""
    return torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
