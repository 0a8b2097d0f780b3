"""The memory of a single pass and of tiles, measured in new processes."""

import argparse
import ctypes
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tadp
from tiling.seams import CAPTION, SEED

TILE_PX = 512
SINGLE_PX = 4e6  # a single pass of a larger image takes minutes
M_MMAP_THRESHOLD, PAGES_BYTES = -3, 1 << 16  # of mallopt in glibc's malloc.h


def status_mb(field: str) -> float:
    """A figure about this process from Linux, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


@torch.no_grad()
def peak(width: int, height: int, way: str) -> dict[str, Any]:
    """The peak memory in addition to that before, and the size of the result, in MB. Must run in a new process."""
    torch.set_num_threads(1)
    # freed tensors go back to the system at once: what glibc keeps of them differs by a third between two runs
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, PAGES_BYTES)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    image = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
    backbone(image[:64, :64], CAPTION)  # loads what is loaded late
    before = status_mb("VmRSS")
    features = backbone.tiled(image, CAPTION, tile_px=TILE_PX) if way == "tiles" else backbone(image, CAPTION)
    kept = [*features.maps, *(features.attention.at(level) for level in features.attention.levels)]
    size = {"peak_mb": status_mb("VmHWM") - before, "result_mb": sum(tensor.nbytes for tensor in kept) / 1e6}
    return {"image": f"{width}x{height}", "way": way, **size, "finest": "x".join(map(str, kept[0].shape[1:]))}


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peaks for each size and method, each measured in a separate process."""
    sizes = [[int(side) for side in size.split("x")] for size in options.memory]
    runs = [(w, h, way) for w, h in sizes for way in ("single pass", "tiles") if way == "tiles" or w * h <= SINGLE_PX]
    peaks = []
    for run in runs:
        with get_context("fork").Pool(1) as pool:  # a fork need not import torch; no pass runs in this process before
            peaks.append(pool.apply(peak, run))
    return peaks
