"""The output of the paper's released feature extractor for a small random network; facts.json describes the files."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from tadp import TADPBackbone
from tadp.diffusion.loading.networks import load_unet, load_vae

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "facts.json").read_text())["cases"]
TOLERANCE = 5e-5  # relative L2; the released code itself is 7e-6 off in float32


@cache
def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def expected_map(case: str, level: int) -> torch.Tensor:
    name = f"{case}.f{level}"  # "attn64" differs only in the finest map; the others are stored once
    return golden("expected")[name if name in golden("expected") else name.replace("attn64", "default")]


@cache
def build(case: str, dtype: torch.dtype) -> TADPBackbone:
    options = CASES[case]
    with_finest = options["max_attn_size"] is not None
    backbone = TADPBackbone(
        unet=load_unet(GOLDEN, variant=None, dtype=dtype),
        vae=load_vae(GOLDEN, variant=None, dtype=dtype),
        timestep=options["t"],
        scale_latents=options["latent_scale"] != 1,
        attach_attention=(0, 1, 2) if with_finest else (1, 2),
        text_length=11,
    )
    return backbone.eval()
