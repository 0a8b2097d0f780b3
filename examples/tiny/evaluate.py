"""Does the embedded checkpoint carry signal? Localisation of words, captions, and frozen features, on held-out scenes.

    python examples/tiny/evaluate.py --model tadp-tiny --out docs/results/tadp-tiny
    python examples/tiny/evaluate.py --model DIR/plain/model --out docs/results/tadp-tiny-control

The second is a model of train_unet.py's, such as the control without supervised attention; its captions are those of
`tadp-tiny`'s captioner all the same. Writes OUT.json and OUT.md; prints the same tables.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import tadp
from tadp.datasets.scenes import CLASSES, Scene, Scenes

TRAIN_SEED, TEST_SEED = 101, 102  # the checkpoint was trained on seed 0; 1 was its held-out set
BATCH = 50


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    started = time.time()
    backbone = tadp.TADPBackbone.from_pretrained(options.model, attach_attention=(), record_attention=(0, 1, 2))
    test = list(tqdm(Scenes(options.test_scenes, seed=TEST_SEED), desc="rendering test scenes"))
    results = {"localisation": localisation(backbone, test)}
    if options.captioner:
        captioner = tadp.Captioner.from_pretrained(options.captioner, batch_size=BATCH)
        train = list(tqdm(Scenes(options.train_scenes, seed=TRAIN_SEED), desc="rendering training scenes"))
        words = {"train": captioner([s.image for s in train]), "test": captioner([s.image for s in test])}
        results["captions"] = caption_quality(captioner, test, words["test"], options.test_scenes)
        results["miou"] = frozen_features(backbone, train, test, words, options)
    results["run"] = {
        "command": f"python examples/tiny/evaluate.py --model {options.model}",
        "test_scenes": options.test_scenes,
        "train_scenes": options.train_scenes,
        "head_seeds": list(range(options.seeds)),
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "minutes": round((time.time() - started) / 60, 1),
    }
    report = _markdown(results)
    print(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        options.out.with_suffix(".md").write_text(report)


def localisation(backbone: tadp.TADPBackbone, scenes: Sequence[Scene]) -> dict:
    """Pointing accuracy and right object among several, by prompt and level.

    Pointing: the pixel at the centre of the word's strongest cell belongs to the object. Right object: of the visible
    objects of a scene with two or more, the word's mean attention is highest on its own.
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


def caption_quality(captioner: tadp.Captioner, test: Sequence[Scene], plain: list[str], count: int) -> dict:
    """Share of the visible objects that are named, and of the named that are visible, by style."""
    results = {"plain": _precision_recall(test, plain)}
    for style in ("watercolor", "comic", "night"):
        scenes = list(Scenes(count, seed=TEST_SEED, style=style))
        results[style] = _precision_recall(scenes, captioner([scene.image for scene in scenes]))
    return results


def _precision_recall(scenes: Sequence[Scene], captions: list[str]) -> dict[str, float]:
    named = [set(_class_words(caption).split()) for caption in captions]
    present = [set(scene.names) for scene in scenes]
    right = sum(len(a & b) for a, b in zip(named, present, strict=True))
    return {"recall": right / sum(map(len, present)), "precision": right / max(sum(map(len, named)), 1)}


def _class_words(caption: str) -> str:
    """What a caption has in common with an oracle: the names, without colours, places and grammar."""
    return " ".join(word for word in caption.replace(",", " ").split() if word in CLASSES)


def frozen_features(
    backbone: tadp.TADPBackbone,
    train: Sequence[Scene],
    test: Sequence[Scene],
    words: dict[str, list[str]],
    options: argparse.Namespace,
) -> dict:
    """Mean IoU of a small head on frozen features, for each way to speak to the backbone."""
    torch.manual_seed(0)
    untrained = tadp.TADPBackbone(
        vae=backbone.vae,
        unet=type(backbone.unet).from_config(backbone.unet.config),
        text_encoder=backbone.text_encoder.model,
        tokenizer=backbone.text_encoder.tokenizer,
        attach_attention=(),
        record_attention=(1, 2),
    ).eval()
    everything = " ".join(CLASSES)
    texts = {
        "empty prompt, untrained U-Net": lambda scenes, part: [""] * len(scenes),
        "empty prompt": lambda scenes, part: [""] * len(scenes),
        "all class names": lambda scenes, part: [everything] * len(scenes),
        "captions of other images": lambda scenes, part: np.roll(words[part], 1).tolist(),
        "captions by the captioner": lambda scenes, part: words[part],
        "names in the captioner's captions": lambda scenes, part: [_class_words(text) for text in words[part]],
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
                _train_head(seen[number], train, unseen[number], test, seed, options.epochs)
                for seed in range(options.seeds)
            ]
            results.setdefault(name, {})[form] = scores
            tqdm.write(f"{name}, {form}: {np.mean(scores):.1f}")
    return results


@torch.inference_mode()
def _latents(backbone: tadp.TADPBackbone, scenes: Sequence[Scene]) -> Tensor:
    """Encoded once for all prompts."""
    starts = tqdm(range(0, len(scenes), BATCH), desc="encoding scenes", leave=False)
    return torch.cat([backbone.encode_image([s.image for s in scenes[k : k + BATCH]]) for k in starts])


@torch.inference_mode()
def _features(
    backbone: tadp.TADPBackbone, latents: Tensor, texts: Sequence[str], name: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of all scenes, one tensor a level; and the same with attention joined at levels 1 and 2, as in the paper."""
    parts = []
    for start in tqdm(range(0, len(latents), BATCH), desc=name, leave=False):
        features = backbone.extract(latents[start : start + BATCH], list(texts[start : start + BATCH]))
        parts.append([*features.maps, *(features.attention.at(level) for level in (1, 2))])
    *maps, fine, coarse = [torch.cat(level) for level in zip(*parts, strict=True)]
    joined = [maps[0], torch.cat([maps[1], fine], dim=1), torch.cat([maps[2], coarse], dim=1), *maps[3:]]
    return maps, joined


class SmallHead(nn.Module):
    """Each level to 64 channels, summed at the finest, one 3x3 convolution: little enough to show the features."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.predict = nn.Sequential(
            nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, len(CLASSES) + 1, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits at the finest level, (B, 13, h, w)."""
        size = maps[0].shape[2:]
        levels = [lateral(norm(one)) for norm, lateral, one in zip(self.norms, self.lateral, maps, strict=True)]
        return self.predict(sum(F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in levels))


def _train_head(
    seen: list[Tensor], train: Sequence[Scene], unseen: list[Tensor], test: Sequence[Scene], seed: int, epochs: int
) -> float:
    """Mean IoU in percent over background and 12 classes, at the image's resolution."""
    torch.manual_seed(seed)
    head = SmallHead([one.shape[1] for one in seen])
    steps = epochs * len(train) // 25
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    masks = torch.from_numpy(np.stack([scene.mask for scene in train])).long()
    stride = masks.shape[-1] // seen[0].shape[-1]
    cells = masks[:, stride // 4 :: stride // 2, stride // 4 :: stride // 2]  # every second of a cell's pixels
    for step in range(steps):
        picked = torch.randint(len(train), (25,), generator=torch.Generator().manual_seed(seed * 100_003 + step))
        logits = F.interpolate(
            head([one[picked] for one in seen]), size=cells.shape[1:], mode="bilinear", align_corners=False
        )
        optimizer.zero_grad()
        F.cross_entropy(logits, cells[picked]).backward()
        optimizer.step()
        schedule.step()
    head.eval()
    confusion = torch.zeros(len(CLASSES) + 1, len(CLASSES) + 1)
    with torch.inference_mode():
        for start in range(0, len(test), BATCH):
            truth = torch.from_numpy(np.stack([scene.mask for scene in test[start : start + BATCH]])).long()
            logits = F.interpolate(
                head([one[start : start + BATCH] for one in unseen]),
                size=truth.shape[1:],
                mode="bilinear",
                align_corners=False,
            )
            pairs = truth.flatten() * len(confusion) + logits.argmax(dim=1).flatten()
            confusion += torch.bincount(pairs, minlength=confusion.numel()).view_as(confusion)
    overlap = confusion.diag()
    return float(100 * (overlap / (confusion.sum(0) + confusion.sum(1) - overlap)).mean())


def _markdown(results: dict) -> str:
    run, chance = results["run"], results["localisation"].pop("chance")
    lines = [
        f"# What {run['command'].split()[-1]} knows of held-out scenes",
        "",
        f"Command: `{run['command']}`; {run['test_scenes']} held-out scenes (seed {TEST_SEED}); {run['machine']}; "
        f"{run['minutes']} minutes.",
        "",
    ]
    lines += [
        "| words in the attention maps, t = 0 | level 0 (stride 8) | level 1 (16) | level 2 (32) | chance |",
        "|---|---|---|---|---|",
    ]
    for prompt, scores in results["localisation"].items():
        for name, levels in scores.items():
            lines.append(
                f"| {name}, {prompt} | "
                + " | ".join(f"{levels[k]:.2f}" for k in (0, 1, 2))
                + f" | {chance[name]:.2f} |"
            )
    results["localisation"]["chance"] = chance
    if "captions" in results:
        lines += ["", "| captions by the captioner | visible objects named | named objects visible |", "|---|---|---|"]
        lines += [
            f"| {style} | {score['recall']:.3f} | {score['precision']:.3f} |"
            for style, score in results["captions"].items()
        ]
    if "miou" in results:
        lines += [
            "",
            f"| mIoU of a small head on frozen features, {len(run['head_seeds'])} seeds (mean ± s.d.) "
            "| features | attention joined |",
            "|---|---|---|",
        ]
        for name, scores in results["miou"].items():
            cells = [
                f"{np.mean(scores[k]):.1f} ± {np.std(scores[k], ddof=1) if len(scores[k]) > 1 else 0:.1f}"
                for k in ("features", "with attention")
            ]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="a tadp model: name or folder")
    parser.add_argument("--captioner", default="tadp-tiny", help="'' leaves out the captions and the heads")
    parser.add_argument("--train-scenes", type=int, default=1000)
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=12, help="of the head")
    parser.add_argument("--seeds", type=int, default=3, help="of the head")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
