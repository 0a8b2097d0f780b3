"""The two tables of a method: losses of held-out images, and distances of samples."""

import math
from typing import Any

import numpy as np

from personalizing.conditions import ALONE, STYLES, WORDS, before


def _columns(method: str, style: str) -> tuple[list[str], list[str]]:
    """Names of the four conditions that are compared, and of those learned from other styles."""
    return [ALONE, before(method), method, WORDS], [f"{method} of {other}" for other in STYLES if other != style]


def loss_arrays(results: dict[str, Any], method: str, style: str) -> dict[str, np.ndarray]:
    """Losses by column, (seeds, images)."""
    (alone, start, own, words), foreign = _columns(method, style)
    runs = results["losses"][style]
    losses = {name: np.array([run[name] for run in runs]) for name in (alone, start, own, words, *foreign)}
    return {
        "only caption": losses[alone],
        "before": losses[start],
        "other styles'": np.mean([losses[name] for name in foreign], axis=0),
        "learned": losses[own],
        "own words": losses[words],
    }


def interval(difference: np.ndarray) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval over all images."""
    return float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / math.sqrt(difference.size)


def loss_table(results: dict[str, Any], method: str) -> str:
    """The losses for each style, and how much learning lowered them."""
    names = ["only caption", "before", "other styles'", "learned", "own words"]
    lines = ["| loss, by style | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    references = ["only caption", "before", "other styles'"]
    paired = [
        f"| difference of losses: learned minus … | {' | '.join(references)} |",
        "|---" * (len(references) + 1) + "|",
    ]
    for style in STYLES:
        arrays = loss_arrays(results, method, style)
        lines.append(f"| {style} | " + " | ".join(f"{arrays[name].mean():.4f}" for name in names) + " |")
        cells = []
        for name in references:
            difference = arrays["learned"] - arrays[name]
            mean, half = interval(difference)
            seeds = difference.mean(axis=1)
            cells.append(f"{mean:+.4f} ± {half:.4f} ({seeds.min():+.4f} to {seeds.max():+.4f})")
        paired.append(f"| {style} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *paired])


def distance_arrays(results: dict[str, Any], method: str, style: str, kind: str) -> dict[str, np.ndarray]:
    """Distances by column, (seeds,)."""
    (alone, start, own, words), foreign = _columns(method, style)
    runs = results["distances"][style]
    return {
        "only caption": np.array([run[alone][kind] for run in runs]),
        "before": np.array([run[start][kind] for run in runs]),
        "other styles'": np.array([np.mean([run[name][kind] for name in foreign]) for run in runs]),
        "learned": np.array([run[own][kind] for run in runs]),
        "own words": np.array([run[words][kind] for run in runs]),
        "halves": np.array([run[own][f"{kind} of halves"] for run in runs]),
    }


def distance_table(results: dict[str, Any], method: str) -> str:
    """The distances of samples from images of the style, in colour and in texture."""
    lines: list[str] = []
    for kind in ("colour", "texture"):
        for style in STYLES:
            arrays = distance_arrays(results, method, style, kind)
            if not lines:
                lines += [
                    "| distance of samples, by style | " + " | ".join(arrays) + " |",
                    "|---" * (len(arrays) + 1) + "|",
                ]
            digits = 1 if kind == "colour" else 2
            cells = [
                f"{array.mean():.{digits}f} ({array.min():.{digits}f}, {array.max():.{digits}f})"
                for array in arrays.values()
            ]
            lines.append(f"| {kind}, {style} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
