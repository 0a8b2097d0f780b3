"""Mean IoU of a small head on frozen features, for each kind of text."""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from caption_quality import class_words
from localisation import BATCH
from small_head import train_head
from torch import Tensor
from tqdm import tqdm

import tadp
from tadp.datasets.scenes import CLASSES, Scene


def frozen_features(
    backbone: tadp.TADPBackbone,
    train: Sequence[Scene],
    test: Sequence[Scene],
    words: dict[str, list[str]],
    options: argparse.Namespace,
) -> dict:
    """Mean IoU of a small head on frozen features, for each kind of text."""
    torch.manual_seed(0)
    untrained = tadp.TADPBackbone(
        vae=backbone.vae,
        unet=type(backbone.unet).from_config(backbone.unet.config),
        text_encoder=backbone.text_encoder.model,
        tokenizer=backbone.text_encoder.tokenizer,
        attach_attention=(),
        record_attention=(1, 2),
    ).eval()
    all_names = " ".join(CLASSES)
    texts = {
        "empty prompt, untrained U-Net": lambda scenes, part: [""] * len(scenes),
        "empty prompt": lambda scenes, part: [""] * len(scenes),
        "all class names": lambda scenes, part: [all_names] * len(scenes),
        "captions of other images": lambda scenes, part: np.roll(words[part], 1).tolist(),
        "captions by the captioner": lambda scenes, part: words[part],
        "names in the captioner's captions": lambda scenes, part: [class_words(text) for text in words[part]],
        "captions, every object named": lambda scenes, part: [scene.caption() for scene in scenes],
        "oracle names": lambda scenes, part: [" ".join(scene.names) for scene in scenes],
    }
    latents = {"train": _latents(backbone, train), "test": _latents(backbone, test)}
    results = {}
    for name, text in texts.items():
        model = untrained if "untrained" in name else backbone
        seen = _features(model, latents["train"], text(train, "train"), name)
        unseen = _features(model, latents["test"], text(test, "test"), name)
        for form, number in (("features", 0), ("with attention", 1)):
            scores = [
                train_head(seen[number], train, unseen[number], test, seed, options.epochs)
                for seed in range(options.seeds)
            ]
            results.setdefault(name, {})[form] = scores
            tqdm.write(f"{name}, {form}: {np.mean(scores):.1f}")
    return results


@torch.inference_mode()
def _latents(backbone: tadp.TADPBackbone, scenes: Sequence[Scene]) -> Tensor:
    """The latents of the scenes, encoded once for all prompts."""
    starts = tqdm(range(0, len(scenes), BATCH), desc="encoding scenes", leave=False)
    return torch.cat([backbone.encode_image([s.image for s in scenes[k : k + BATCH]]) for k in starts])


@torch.inference_mode()
def _features(
    backbone: tadp.TADPBackbone, latents: Tensor, texts: Sequence[str], name: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of all scenes, one tensor per level, without and with the paper's attention at levels 1 and 2."""
    parts = []
    for start in tqdm(range(0, len(latents), BATCH), desc=name, leave=False):
        features = backbone.extract(latents[start : start + BATCH], list(texts[start : start + BATCH]))
        parts.append([*features.maps, *(features.attention.at(level) for level in (1, 2))])
    *maps, fine, coarse = [torch.cat(level) for level in zip(*parts, strict=True)]
    joined = [maps[0], torch.cat([maps[1], fine], dim=1), torch.cat([maps[2], coarse], dim=1), *maps[3:]]
    return maps, joined
