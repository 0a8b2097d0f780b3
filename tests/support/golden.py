"""What the paper's released feature extractor returned for a small random network; facts.json beside it explains it."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "facts.json").read_text())["cases"]
TOLERANCE = 5e-5  # relative L2; the released code itself is 7e-6 off in float32


@cache
def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def expected_map(case: str, level: int) -> torch.Tensor:
    name = f"{case}.f{level}"  # with attention on the finest level the other maps are the default's, stored once
    return golden("expected")[name if name in golden("expected") else name.replace("attn64", "default")]
