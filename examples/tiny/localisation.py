"""Does the attention of a word lie on its object?"""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

import tadp
from tadp.datasets.scenes import Scene

BATCH = 50


def localisation(backbone: tadp.TADPBackbone, scenes: Sequence[Scene]) -> dict:
    """Pointing accuracy, and accuracy of choosing the right object, by prompt and level.

    Pointing: the pixel at the centre of the word's strongest cell belongs to the object. Right object: in a scene with
    two or more visible objects, the word's mean attention is highest on its own object.
    """
    prompts = {
        "caption": [scene.caption() for scene in scenes],
        "name list": [" ".join(scene.names) for scene in scenes],
    }
    table = {}
    for prompt, captions in prompts.items():
        hits: dict[int, list[float]] = {0: [], 1: [], 2: []}
        right: dict[int, list[float]] = {0: [], 1: [], 2: []}
        chance_hit, chance_right = [], []
        for start in tqdm(range(0, len(scenes), BATCH), desc=f"attention, {prompt}"):
            part = scenes[start : start + BATCH]
            with torch.inference_mode():
                features = backbone(np.stack([s.image for s in part]), captions[start : start + BATCH])
            for level in hits:
                for scene, words in zip(part, features.attention.words(level), strict=True):
                    _score_scene(scene, words, hits[level], right[level])
            for scene in part:
                masks = _object_masks(scene)
                chance_hit += [mask.mean() for mask in masks]
                chance_right += [1 / len(masks)] * len(masks) if len(masks) > 1 else []
        table[prompt] = {
            "pointing": {level: float(np.mean(values)) for level, values in hits.items()},
            "right object": {level: float(np.mean(values)) for level, values in right.items()},
        }
        table["chance"] = {"pointing": float(np.mean(chance_hit)), "right object": float(np.mean(chance_right))}
    return table


def _object_masks(scene: Scene) -> list[np.ndarray]:
    return [scene.mask == label for label in scene.labels]


def _score_scene(scene: Scene, words: tadp.features.WordMaps, hits: list[float], right: list[float]) -> None:
    masks = _object_masks(scene)
    for number, name in enumerate(scene.names):
        heat = words[name]
        cells = heat.shape[0]
        row, column = divmod(int(heat.argmax()), cells)
        stride = len(scene.mask) // cells
        hits.append(float(masks[number][row * stride + stride // 2, column * stride + stride // 2]))
        if len(masks) > 1:
            large = heat.repeat_interleave(stride, 0).repeat_interleave(stride, 1).numpy()
            right.append(float(np.argmax([large[mask].mean() for mask in masks]) == number))
