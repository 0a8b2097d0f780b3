"""Run a backbone with each way to save memory: how far its maps are off, and on a GPU how much memory it takes."""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from tadp import TADPBackbone
from tadp.datasets.scenes import Scenes
from tadp.images import to_tensor


def savings_rows(name: str, device: str, *, side_px: int) -> Iterator[str]:
    """A row per way: the largest relative difference of a map in L2, peak memory of load and pass, and seconds."""
    exact, dtype = None, torch.bfloat16 if device.startswith("cuda") else torch.float32
    yield "| way | difference of a map | peak, GB | seconds |\n|---|---|---|---|"
    for way, options in _ways().items():
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        backbone = TADPBackbone.from_pretrained(name, dtype=dtype, device=device, **options)
        scene = Scenes(1, seed=5)[0]
        image = torch.nn.functional.interpolate(to_tensor(scene.image), (side_px, side_px))
        for _ in range(2):  # the first pass warms up
            start = time.perf_counter()
            with torch.inference_mode():
                maps = [level.float().cpu() for level in backbone(image, scene.caption()).maps]
            seconds = time.perf_counter() - start
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.startswith("cuda") else "not measured"
        exact = exact or maps
        off = max(float((level - same).norm() / same.norm()) for level, same in zip(maps, exact, strict=True))
        yield f"| {way} | {off:.4f} | {peak} | {seconds:.2f} |"
        del backbone


def _ways() -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {
        "dtype only": {},
        "idle_on_cpu": {"idle_on_cpu": True},
        "storage_dtype, float8_e4m3fn": {"storage_dtype": torch.float8_e4m3fn},
        "block_level": {"group_offload": "block_level", "idle_on_cpu": True},
        "leaf_level": {"group_offload": "leaf_level", "idle_on_cpu": True},
    }
    if find_spec("torchao"):
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        ways["quantization_config, int8"] = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    return ways
