"""CPU time and memory of variants that run in turn in one process, and their ratios."""

import ctypes
import gc
import itertools
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarking.counting import best_convolution_rate, count_flops, relative_error
from benchmarking.rows import Group
from benchmarking.variants import Variant, build
from benchmarking.ways import encode, extract, step
from tadp import Conditioning, TADPBackbone


def _format(variant: Variant) -> tuple[torch.dtype, torch.memory_format, str]:
    return variant.dtype, variant.memory_format, variant.compiled


class Bench:
    """Networks with random weights in each format, and what was measured with them.

    Args:
        size: Size of the networks.
        side: Side of the image in pixels, before a group divides it.
    """

    def __init__(self, size: str, side: int):
        self.size, self.side = size, side
        self._networks: dict[Any, tuple[TADPBackbone, torch.Tensor, Conditioning]] = {}
        self._maps: dict[str, torch.Tensor] = {}  # of the first variant that returned them

    def measure(self, group: Group, rounds: int) -> list[dict]:
        """Run all variants of a group in turn, every second round in reverse, and compare medians with the first."""
        measured, errors, rates = defaultdict(list), {}, defaultdict(float)
        for number in range(rounds):
            order = group.variants[:: -1 if number % 2 else 1]
            for form, variants in itertools.groupby(order, _format):
                rates[form] = max(rates[form], best_convolution_rate(self.size, *form[:2]))
                for variant in variants:
                    if form not in self._networks:
                        self._networks[form] = build(self.size, variant, shares=True, side=self.side)
                    figures, maps = self._run(*self._networks[form], variant, group, warm=number > 0)
                    measured[variant].append(figures)
                    errors.setdefault(variant, self._error(maps))
        first = measured[group.variants[0]]
        flops = {variant: count_flops(self.size, self.side, variant, group) for variant in group.variants}
        return [
            {"group": group.title, "name": variant.name, "error": errors[variant]}
            | _compared(measured[variant], first, flops[variant], rates[_format(variant)])
            for variant in group.variants
        ]

    def _run(
        self,
        backbone: TADPBackbone,
        image: torch.Tensor,
        text: Conditioning,
        variant: Variant,
        group: Group,
        *,
        warm: bool,
    ) -> tuple[dict[str, dict[str, float]], dict[str, torch.Tensor]]:
        """Measure one run, after one that is not measured if the variant was never run."""
        side = self.side // group.shrink
        image = image[..., :side, :side].repeat(group.batch, 1, 1, 1)
        text = text.take([0] * group.batch).to(dtype=variant.dtype)
        latents = torch.randn(group.batch, 4, side // 8, side // 8, generator=_seeded())
        latents = latents.to(variant.dtype)
        figures: dict[str, dict[str, float]] = {}
        if group.trains:
            backbone.unfreeze()
            run = partial(step, backbone, variant, latents, text)
            if not warm:
                partial(step, backbone, variant, latents[..., :8, :8], text)()
            figures["extract"] = _measure(run)[0]
            backbone.freeze()
            return figures, {}
        with torch.inference_mode():
            small = (image, latents) if variant.compiled else (image[..., :64, :64], latents[..., :8, :8])
            if not warm:
                encode(backbone, variant, small[0]), extract(backbone, variant, small[1], text)
            if variant.encodes and group.batch == 1:
                figures["encode"] = _measure(partial(encode, backbone, variant, image))[0]
            figures["extract"], maps = _measure(partial(extract, backbone, variant, latents, text))
        return figures, maps if group.batch == 1 else {}

    def _error(self, maps: dict[str, torch.Tensor]) -> float | None:
        """The largest relative L2 error of a map, from the maps of the first variant that has it."""
        known = {name: feature.float() for name, feature in maps.items()}
        self._maps = known | self._maps
        return relative_error(known, self._maps) if known else None


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _compared(measured: list[dict], first: list[dict], flops: dict[str, float], rate: float) -> dict[str, Any]:
    """Speed and memory as medians of ratios over rounds, and the share of the best rate."""

    def ratio(parts: tuple[str, ...], field: str) -> float | None:
        if any(part not in measured[0] or part not in first[0] for part in parts):
            return None
        sums = [[sum(figures[part][field] for part in parts) for figures in rows] for rows in (first, measured)]
        return statistics.median(theirs / max(own, 1e-9) for theirs, own in zip(*sums, strict=True))

    both = ("encode", "extract")
    parts = both if "encode" in measured[0] else both[1:]
    seconds = {part: statistics.median(figures[part]["cpu"] for figures in measured) for part in parts}
    memory = {part: ratio((part,), "peak") for part in both}
    work = sum(flops[part] for part in parts)
    return {
        "unet_speed": ratio(("extract",), "cpu"),
        "both_speed": ratio(both, "cpu"),
        "unet_memory": memory["extract"] and 1 / memory["extract"],
        "vae_memory": memory["encode"] and 1 / memory["encode"],
        "cpu_seconds": seconds,
        "gflop": {part: flops[part] for part in parts},
        "best_rate_gflops": rate,
        "share_of_best_rate": work / sum(seconds.values()) / rate,
    }


def _measure(function: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """CPU seconds, and peak bytes in addition to those before the call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed goes back to the system, so that it counts again
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    before, start = _status("VmRSS"), time.process_time()
    result = function()
    return {"cpu": time.process_time() - start, "peak": max(_status("VmHWM") - before, 1)}, result


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
