"""Compare with tests/data/golden, the output of the paper's released feature extractor; facts.json explains it."""

from functools import cache

import pytest
import torch
from builders import relative_error
from golden import CASES, TOLERANCE, build, expected_map, golden

from tadp import Conditioning, Features

ATTENTION_LEVELS = {"attn64": 0, "attn32": 1, "attn16": 2}  # named after the width of the map for a 512x512 image


@cache
def features(case: str, dtype: torch.dtype) -> Features:
    with torch.no_grad():
        return build(case, dtype)(
            golden("inputs")["image"].to(torch.float64) / 255, Conditioning(golden("inputs")["context"].float())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_every_map_is_the_released_codes(case, dtype):
    maps = features(case, dtype).maps
    assert [list(feature.shape) for feature in maps] == CASES[case]["feats"]
    for level, feature in enumerate(maps):
        assert feature.dtype == dtype
        assert relative_error(feature, expected_map(case, level)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_attention_is_the_released_codes(case, dtype):
    attention = features(case, dtype).attention
    recorded = {name: level for name, level in ATTENTION_LEVELS.items() if CASES[case]["attn"][name]}
    assert attention.levels == tuple(sorted(recorded.values()))
    for name, level in recorded.items():
        assert relative_error(attention.at(level), golden("expected")[f"{case}.{name}"]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_double_precision_agrees_with_single(case):
    for double, single in zip(features(case, torch.float64).maps, features(case, torch.float32).maps, strict=True):
        assert relative_error(single, double) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "name"), [("t1.unscaled.default", "latent_mode"), ("t1.scaled.default", "latent_scaled")]
)
def test_the_latents_are_the_released_codes(case, name):
    latents = build(case, torch.float32).encode_image(golden("inputs")["image"])
    assert relative_error(latents, golden("expected")[name]) < TOLERANCE


def test_the_timestep_and_the_scale_matter_more_than_the_tolerance():
    """Otherwise the cases would prove nothing."""
    cases = [case for case in CASES if case.endswith("default")]
    for level in range(4):
        first, *rest = [expected_map(case, level) for case in cases]
        assert min(relative_error(other, first) for other in rest) > 20 * TOLERANCE
