"""What fits onto a small card: the memory of a backbone for each way to save some, counted without weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tadp.backbone.memory_saving import offload, store
from tadp.diffusion.families import family_of

from .memory import PeakBytes, default_dtype
from .models import build, inputs, run, tensors, text_encoder

HALF, FLOAT8 = torch.bfloat16, torch.float8_e4m3fn
CARDS_GB = (8, 12, 24)
RESERVE_GB = 1  # for CUDA itself, and for what kernels allocate
IDLE = "idle_on_cpu"
# By the arguments of from_pretrained, the fastest first.
WAYS = ("dtype only", IDLE, "storage_dtype", "quantization_config", "block_level", "leaf_level")


def fitting_rows(family: dict[str, Any], sides_px: tuple[int, ...]) -> Iterator[str]:
    """A row per size of image: gigabytes for each way to save memory, and the first way that fits onto each card."""
    weights = _weights(family)
    text = {level: _text_peak(family, level) for level in (None, "leaf_level")}  # block_level moves their layers, too
    peaks = {level: _peaks(family, sides_px, level) for level in (None, "block_level", "leaf_level")}
    for side in sides_px:
        needed = {}
        for way in WAYS:
            level = way if way in peaks else None
            needed[way] = _needed(way, weights, text["leaf_level" if level else None], *peaks[level][side]) / 1e9
        fits = [next((way for way in WAYS if needed[way] + RESERVE_GB <= card), "nothing") for card in CARDS_GB]
        cells = [family["name"], str(side), *(f"{number:.1f}" for number in needed.values()), *fits]
        yield f"| {' | '.join(cells)} |"


def _needed(way: str, weights: dict[str, int], text: int, vae: int, denoiser: int) -> int:
    """Bytes for a call, whose steps run one after the other, from the peaks of its steps: text, VAE and denoiser."""
    held = weights.get(way, weights["denoiser"])
    if way == "dtype only":
        return held + weights["text"] + weights["vae"] + max(text, vae, denoiser)
    if way == "storage_dtype":
        denoiser += weights["largest layer"]  # in 16 bits while it runs
    if way.endswith("level"):
        return max(text, weights["vae"] + vae, denoiser)
    return held + max(weights["text"] + text, weights["vae"] + vae, denoiser)


def _weights(family: dict[str, Any]) -> dict[str, int]:
    """Bytes of the weights of each part, and of the denoiser for the ways that store it in fewer bits."""
    with torch.device("meta"), default_dtype(HALF):
        vae, denoiser = build(family)
        encoders = [text_encoder(config) for config in family["text"]]
    layers = [part for part in denoiser.modules() if isinstance(part, torch.nn.Linear)]
    sizes = {
        "denoiser": _bytes(denoiser),
        "vae": _bytes(vae),
        "text": sum(map(_bytes, encoders)),
        "largest layer": max(weight.nbytes for weight in denoiser.parameters()),
        # a byte per weight of a linear layer, and a scale in 16 bits per row
        "quantization_config": _bytes(denoiser) - sum(part.weight.numel() - 2 * part.out_features for part in layers),
    }
    store(denoiser, FLOAT8, HALF, "denoiser")
    return sizes | {"storage_dtype": _bytes(denoiser)}


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors(module))


def _peaks(family: dict[str, Any], sides_px: tuple[int, ...], level: str | None) -> dict[int, tuple[int, int]]:
    """Peaks of VAE and denoiser by size, without weights that stay, but with those that are moved for a layer."""
    peaks, counters = {}, []
    with default_dtype(HALF), FakeTensorMode(), torch.no_grad(), _moved(counters):
        vae, denoiser = build(family)
        blocks = family_of(denoiser).offload_blocks(denoiser) if level == "block_level" else []
        if level:
            offload(denoiser, blocks, torch.device("cpu"))
        for side in sides_px:
            pixels, latents, text = inputs(family, vae, denoiser, side)
            with PeakBytes([*tensors(vae), pixels]) as encoding:
                vae(pixels)
            with PeakBytes([*tensors(denoiser), latents]) as passing:
                counters[:] = [passing]
                run(denoiser, latents, text, side)
            peaks[side] = encoding.peak, passing.peak
    return peaks


def _text_peak(family: dict[str, Any], level: str | None) -> int:
    """The largest peak of the text encoders, for one caption."""
    peaks = []
    for config in family["text"]:
        length = 77 if config["kind"].startswith("clip") else family["tokens"] - 77 * (len(family["text"]) > 2)
        with default_dtype(HALF), FakeTensorMode(), torch.no_grad():
            encoder = text_encoder(config)
            ids = torch.zeros(1, length, dtype=torch.long)
            running = PeakBytes([*tensors(encoder), ids])
            with _moved([running]):
                if level:
                    offload(encoder, [], torch.device("cpu"))
                with running:
                    encoder(ids)
        peaks.append(running.peak)
    return max(peaks)


@contextmanager
def _moved(counters: list[PeakBytes]) -> Iterator[None]:
    """Count the weights that group offloading moves to the card with the last counter, in place of moving them."""
    from diffusers.hooks.group_offloading import ModuleGroup

    def group_bytes(group: Any) -> int:
        own = [tensor for part in group.modules for tensor in tensors(part)]
        return sum(tensor.nbytes for tensor in (*own, *group.parameters, *group.buffers))

    def onload(group: Any) -> None:
        counters[-1].alive[id(group)] = group_bytes(group)

    def leave(group: Any) -> None:
        for counter in counters:
            counter.alive.pop(id(group), None)

    with mock.patch.object(ModuleGroup, "onload_", onload), mock.patch.object(ModuleGroup, "offload_", leave):
        yield
