"""Base models side by side: levels, channels, parameters, counted FLOPs and memory at 512x512. Nothing is downloaded.

    python examples/base_models.py                 # the table of docs/base-models.md
    python examples/base_models.py --family sdxl   # one family
    python examples/base_models.py --measure sd1   # a real pass with random weights in float32, and what it took

Models are built from their public configurations (examples/base_models.json) without weights. FLOPs are counted on
PyTorch's meta device by torch.utils.flop_counter: products of matrices, convolutions and fused attention. Memory is
counted with fake tensors: after each operation, the bytes of all tensors that are alive.
"""

import argparse
import json
import resource
import weakref
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tadp import Conditioning
from tadp.denoiser import prepare, read_denoiser, run_once, tap_names
from tadp.vae import encoder_of

CONFIGS = Path(__file__).with_suffix(".json")
DENOISERS = {one.__name__: one for one in (UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel)}
ENCODERS = {"clip": CLIPTextModel, "clip projected": CLIPTextModelWithProjection, "t5": T5EncoderModel}


LEVELS = (1, 2)  # with attention recorded


def measure(family: dict[str, Any], side_px: int) -> dict[str, Any]:
    """What one family is and costs, for one square image, with attention recorded at levels 1 and 2."""
    with torch.device("meta"):
        vae, denoiser = build(family)
        encoders = [text_encoder(one) for one in family["text"]]
        pixels, latents, text = inputs(family, vae, denoiser, side_px)
    layout = read_denoiser(denoiser)
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        vae(pixels)
    with FlopCounterMode(display=False) as passing, torch.no_grad():
        maps = run(denoiser, latents, text, side_px)
    return {
        "levels": tap_names(denoiser, layout),
        "channels": layout.channels,
        "strides": tuple(vae.reduction * one for one in layout.reduction),
        "attention": tuple(vae.reduction * layout.reduction[level] for level in layout.attention_levels),
        "tokens": family["tokens"],
        "tables": sum(one.numel() for part in (vae, denoiser) for one in part.buffers()),
        "parameters": {"denoiser": count(denoiser), "vae": count(vae), "text": sum(map(count, encoders))},
        "flops": {"vae": encoding.get_total_flops(), "denoiser": passing.get_total_flops()},
        "pass_bytes": peak_bytes(family, side_px, torch.float16),
        "maps_bytes": sum(one.numel() * 4 for one in maps),
    }


def build(family: dict[str, Any]) -> tuple[Any, Any]:
    """VAE encoder and denoiser."""
    denoiser: Any = DENOISERS[family["denoiser"]](**family["config"]).requires_grad_(False)
    prepare(denoiser, read_denoiser(denoiser))
    return encoder_of(AutoencoderKL(**family["vae"])).requires_grad_(False), denoiser


def inputs(
    family: dict[str, Any], vae: Any, denoiser: Any, side_px: int
) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Pixels, latents and a text, all zero."""
    layout, cells = read_denoiser(denoiser), side_px // vae.reduction
    pooled = None if layout.pooled_width is None else torch.zeros(1, layout.pooled_width)
    text = Conditioning(torch.zeros(1, family["tokens"], layout.text_width), pooled=pooled)
    return torch.zeros(1, 3, side_px, side_px), torch.zeros(1, layout.latent_channels, cells, cells), text


def run(denoiser: Any, latents: torch.Tensor, text: Conditioning, side_px: int) -> tuple[torch.Tensor, ...]:
    options: Any = {"timestep": 0, "image_size": (side_px, side_px), "record_levels": LEVELS}
    return run_once(denoiser, read_denoiser(denoiser), latents, text=text, **options)[0]


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


def text_encoder(options: dict[str, Any]) -> torch.nn.Module:
    kind = ENCODERS[options["kind"]]
    config = T5Config if options["kind"] == "t5" else CLIPTextConfig
    return kind(config(**options["config"]))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters, and tables such as Stable Diffusion 3's positions."""
    return [*module.parameters(), *module.buffers()]


def row(name: str, found: dict[str, Any]) -> str:
    parameters, flops = found["parameters"], found["flops"]
    weights = 2 * (parameters["denoiser"] + parameters["vae"] + found["tables"]) / 1e9
    cells = (
        name,
        ", ".join(map(str, found["channels"])),
        ", ".join(map(str, found["strides"])),
        ", ".join(map(str, found["attention"])),
        str(found["tokens"]),
        f"{parameters['denoiser'] / 1e6:,.0f} + {parameters['vae'] / 1e6:,.0f} + {parameters['text'] / 1e6:,.0f}",
        f"{flops['vae'] / 1e9:,.0f} + {flops['denoiser'] / 1e9:,.0f}",
        f"{weights:.1f} + {2 * parameters['text'] / 1e9:.1f} + {found['pass_bytes'] / 1e9:.1f}",
        f"{found['maps_bytes'] / 2**20:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    families = json.loads(CONFIGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", choices=sorted(families), action="append", help="one family; several times for more"
    )
    parser.add_argument("--measure", choices=sorted(families), help="run one family, as far as memory allows")
    parser.add_argument("--side", type=int, default=512, help="pixels of the square image")
    options = parser.parse_args(arguments)
    if options.measure:
        print(real_pass(families[options.measure], options.side))
        return
    print(
        "| model | channels | strides | attention at | text tokens | parameters, M: denoiser + VAE encoder + text "
        "| GFLOP: VAE + denoiser | memory in 16 bits, GB: weights + those of text + a pass | maps, MiB |"
    )
    print(f"|{'---|' * 9}")
    for key in options.family or families:
        found = measure(families[key], options.side)
        print(row(families[key]["name"], found))
        if options.family:
            print("\n" + "\n".join(f"level {level}: {name}" for level, name in enumerate(found["levels"])))


if __name__ == "__main__":
    main()
