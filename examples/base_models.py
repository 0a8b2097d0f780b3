"""Base models side by side: levels, channels, parameters, counted FLOPs and memory at 512x512. Nothing is downloaded.

    python examples/base_models.py                 # the table of docs/base-models.md
    python examples/base_models.py --family sdxl   # one family

Models are built from their public configurations (examples/base_models.json) without weights, on PyTorch's meta device,
and a pass is counted by torch.utils.flop_counter: products of matrices, convolutions and fused attention.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tadp import Conditioning
from tadp.denoiser import prepare, read_denoiser, run_once, tap_names
from tadp.vae import encoder_of

CONFIGS = Path(__file__).with_suffix(".json")
DENOISERS = {one.__name__: one for one in (UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel)}
ENCODERS = {"clip": CLIPTextModel, "clip projected": CLIPTextModelWithProjection, "t5": T5EncoderModel}


def measure(family: dict[str, Any], side_px: int) -> dict[str, Any]:
    """What one family is and costs, for one square image, with attention recorded at levels 1 and 2."""
    with torch.device("meta"):
        denoiser: Any = DENOISERS[family["denoiser"]](**family["config"]).requires_grad_(False)
        vae = encoder_of(AutoencoderKL(**family["vae"])).requires_grad_(False)
        encoders = [text_encoder(one) for one in family["text"]]
    layout = read_denoiser(denoiser)
    prepare(denoiser, layout)
    pixels = torch.zeros(1, 3, side_px, side_px, device="meta")
    cells = side_px // vae.reduction
    latents = torch.zeros(1, layout.latent_channels, cells, cells, device="meta")
    embeddings = torch.zeros(1, family["tokens"], layout.text_width, device="meta")
    pooled = None if layout.pooled_width is None else torch.zeros(1, layout.pooled_width, device="meta")
    text = Conditioning(embeddings, pooled=pooled)
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        vae(pixels)
    with FlopCounterMode(display=False) as passing, torch.no_grad():
        maps, _ = run_once(
            denoiser, layout, latents, timestep=0, text=text, image_size=(side_px, side_px), record_levels=(1, 2)
        )
    return {
        "levels": tap_names(denoiser, layout),
        "channels": layout.channels,
        "strides": tuple(vae.reduction * one for one in layout.reduction),
        "attention": tuple(vae.reduction * layout.reduction[level] for level in layout.attention_levels),
        "tokens": family["tokens"],
        "parameters": {"denoiser": count(denoiser), "vae": count(vae), "text": sum(map(count, encoders))},
        "flops": {"vae": encoding.get_total_flops(), "denoiser": passing.get_total_flops()},
        "maps_bytes": sum(one.numel() * 4 for one in maps),
    }


def text_encoder(options: dict[str, Any]) -> torch.nn.Module:
    kind = ENCODERS[options["kind"]]
    config = T5Config if options["kind"] == "t5" else CLIPTextConfig
    return kind(config(**options["config"]))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def row(name: str, found: dict[str, Any]) -> str:
    parameters, flops = found["parameters"], found["flops"]
    gigabytes = sum(parameters.values()) * 2 / 1e9
    cells = (
        name,
        ", ".join(map(str, found["channels"])),
        ", ".join(map(str, found["strides"])),
        ", ".join(map(str, found["attention"])),
        str(found["tokens"]),
        f"{parameters['denoiser'] / 1e6:,.0f} + {parameters['vae'] / 1e6:,.0f} + {parameters['text'] / 1e6:,.0f}",
        f"{flops['vae'] / 1e9:,.0f} + {flops['denoiser'] / 1e9:,.0f}",
        f"{gigabytes:.1f}",
        f"{found['maps_bytes'] / 2**20:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    families = json.loads(CONFIGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", choices=sorted(families), action="append", help="one family; several times for more"
    )
    parser.add_argument("--side", type=int, default=512, help="pixels of the square image")
    options = parser.parse_args(arguments)
    print(
        "| model | channels | strides | attention at | text tokens | parameters, M: denoiser + VAE encoder + text "
        "| GFLOP: VAE + denoiser | weights in bfloat16, GB | maps, MiB |"
    )
    print(f"|{'---|' * 9}")
    for key in options.family or families:
        found = measure(families[key], options.side)
        print(row(families[key]["name"], found))
        if options.family:
            print("\n" + "\n".join(f"level {level}: {name}" for level, name in enumerate(found["levels"])))


if __name__ == "__main__":
    main()
