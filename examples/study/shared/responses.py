"""How a backbone responds to pasted objects: the maps of their names, and the change of the features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tadp
from tadp.cross_domain import estimate

from .pasting import ABSENT, NAMED, NOT_NAMED, Paste

TEXTS = (NAMED, NOT_NAMED, ABSENT)
LEVELS = (0, 1, 2)
PASTED, ORIGINAL, CHANCE = "object pasted, named", "object not pasted, named", "an even map"
AT_OBJECT, ELSEWHERE = "where the object is", "elsewhere"
# Differences between two rows, computed for each scene: by part of the page, the two rows.
DIFFERENCES = {
    "maps": (PASTED, ORIGINAL),
    "pasting": (NAMED, NOT_NAMED),
    "naming": (NAMED, ABSENT),
}
MAPS = {
    "share inside": "share of the map inside the object",
    "area under the curve": "area under the curve",
    "pointing": "pointing",
}


@dataclass(frozen=True)
class Outputs:
    """What the backbone returns for a scene with and without a pasted object, for each of the three texts.

    Attributes:
        heats: The attention map of the object's name at the image's size, by `PASTED` and `ORIGINAL`.
        pasted: The maps of each level with the object, (3, C, h, w), in the order of `TEXTS`.
        original: The same without the object.
    """

    heats: dict[str, np.ndarray]
    pasted: list[torch.Tensor]
    original: list[torch.Tensor]

    def changes(self, level: int) -> dict[str, dict[str, torch.Tensor]]:
        """How much each cell of a level changes, (h, w), in per cent of the mean length of the original's features.

        A change is the length of the difference of two feature vectors. "pasting" has one with each text, and "naming"
        the changes from the caption that does not name the object, in the picture with the object.
        """
        plain = TEXTS.index(NOT_NAMED)
        pasted, original = self.pasted[level], self.original[level]
        unit = original[plain].norm(dim=0).mean() / 100
        pasting = {text: (pasted[k] - original[k]).norm(dim=0) / unit for k, text in enumerate(TEXTS)}
        naming = {text: (pasted[TEXTS.index(text)] - pasted[plain]).norm(dim=0) / unit for text in (NAMED, ABSENT)}
        return {"pasting": pasting, "naming": naming}


@torch.no_grad()
def outputs_of(backbone: tadp.TADPBackbone, example: Paste) -> Outputs:
    """Run the backbone on both pictures, with all texts."""
    texts = list(example.texts.values())
    heats, maps = {}, {}
    for name, image in ((PASTED, example.image), (ORIGINAL, example.original)):
        latents = backbone.encode_image(image)
        features = backbone.extract(latents.expand(len(texts), -1, -1, -1), texts, image_size=image.shape[:2])
        attention: Any = features.attention
        heats[name] = (
            attention.mean_over_levels(image.shape[:2])
            .pool([example.name], 0)
            .maps[TEXTS.index(NAMED), 0]
            .float()
            .cpu()
            .numpy()
        )
        maps[name] = [level.float().cpu() for level in features.maps]
    return Outputs(heats, maps[PASTED], maps[ORIGINAL])


def measure(example: Paste, outputs: Outputs) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of one scene: by part of the page, row and column."""
    maps = {name: of_map(heat, example.mask) for name, heat in outputs.heats.items()}
    maps[CHANCE] = dict(zip(MAPS, (float(example.mask.mean()), 0.5, float(example.mask.mean())), strict=True))
    figures: dict[str, dict[str, dict[str, float]]] = {"maps": maps, "pasting": {}, "naming": {}}
    for level in LEVELS:
        for part, changes in outputs.changes(level).items():
            for text, change in changes.items():
                means = _inside_and_outside(change, example.mask)
                figures[part].setdefault(text, {}).update({f"level {level}, {place}": means[place] for place in means})
    for part, (row, other) in DIFFERENCES.items():
        rows = figures[part]
        rows[_minus(row, other)] = {key: rows[row][key] - rows[other][key] for key in rows[row]}
    return figures


def _minus(row: str, other: str) -> str:
    return f"{row}, minus {other}"


def of_map(heat: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """How well a map fits a mask: the share of its sum inside, the area under the ROC curve, and its peak."""
    inside, outside = heat[mask], np.sort(heat[~mask])
    below = (np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")) / 2
    peaks = mask[np.unravel_index(heat.argmax(), heat.shape)]
    values = (inside.sum() / heat.sum(), below.mean() / len(outside), peaks)
    return dict(zip(MAPS, map(float, values), strict=True))


def _inside_and_outside(change: torch.Tensor, mask: np.ndarray) -> dict[str, float]:
    """The mean over the cells of the object, weighted by how much of each it covers, and over the cells without it."""
    covered = F.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None, None], change.shape)[0, 0]
    at_object = float((change * covered).sum() / covered.sum())
    elsewhere = float(change[covered == 0].mean())
    return {AT_OBJECT: at_object, ELSEWHERE: elsewhere}


def summarize(scenes: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % interval of every figure over scenes."""
    summary: dict[str, Any] = {"scenes": len(scenes)}
    for part, rows in scenes[0].items():
        summary[part] = {
            row: {key: _estimated([scene[part][row][key] for scene in scenes]) for key in figures}
            for row, figures in rows.items()
        }
    return summary


def _estimated(values: list[float]) -> dict[str, float]:
    spread = estimate([value for value in values if np.isfinite(value)])
    return {"mean": spread.mean, "half_width": spread.half_width}
