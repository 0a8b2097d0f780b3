"""The quality of the captioner on held-out scenes, during training and at the end."""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from captioner_data import to_pixels
from captioner_text import split
from scenes_cache import SIZE
from transformers import BertTokenizer, BlipForConditionalGeneration

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, STYLES, Scene, Scenes, Style

HELD_OUT_SEED = 1


@torch.no_grad()
def evaluate(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, scenes: list[Scene]) -> dict[str, float]:
    """Compare greedy captions with the visible objects.

    Returns:
        Precision and recall of the named objects, the share of correctly named objects with the right colour, the
        share of right places, and the share of captions that are right word by word.
    """
    model.eval()
    named = visible = right = colors = places = exact = 0
    for start in range(0, len(scenes), 100):
        part = scenes[start : start + 100]
        pixels = to_pixels(np.stack([scene.image for scene in part]))
        ids = model.generate(pixel_values=pixels, max_new_tokens=40)
        for scene, text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            words = split(text)
            named_colors = {word: before for before, word in pairwise(words) if word in CLASSES}
            true_colors = {instance.name: instance.color for instance in scene.visible}
            hits = named_colors.keys() & true_colors.keys()
            named, visible, right = named + len(named_colors), visible + len(true_colors), right + len(hits)
            colors += sum(named_colors[name] == true_colors[name] for name in hits)
            places += text.endswith(BACKGROUNDS[scene.layout.background][0])
            exact += text == scene.caption()
    model.train()
    figures = {"precision": right / max(named, 1), "recall": right / visible, "colors": colors / max(right, 1)}
    return figures | {"places": places / len(scenes), "exact": exact / len(scenes)}


def held_out_scenes(count: int, style: Style | None = None) -> list[Scene]:
    """Scenes of a seed that is never used in training."""
    return list(Scenes(count, seed=HELD_OUT_SEED, size=SIZE, style=style))


class Log:
    """Losses and held-out figures, which are printed and survive a restart."""

    def __init__(self, path: Path, steps: int, done: int):
        self.path, self.steps, self.recent, self.clock = path, steps, [], time.time()
        self.lines = [line for line in json.loads(path.read_text()) if line["step"] <= done] if done else []

    def add(self, losses: tuple[float, float]) -> None:
        self.recent.append(losses)

    def report(self, step: int, held_out: dict[str, float]) -> None:
        vision, text = np.mean(self.recent, axis=0)
        seconds, self.clock = time.time() - self.clock, time.time()
        self.lines.append({"step": step, "vision": vision, "text": text, "seconds": seconds, **held_out})
        self.recent = []
        figures = "  ".join(f"{name} {value:.3f}" for name, value in self.lines[-1].items() if name != "step")
        print(f"step {step}/{self.steps}  {figures}", flush=True)

    def save(self) -> None:
        self.path.write_text(json.dumps(self.lines))


def write_record(tokenizer: BertTokenizer, log: Log, options: argparse.Namespace) -> None:
    """Measure the saved half-precision model, and write the figures together with the history."""
    model = BlipForConditionalGeneration.from_pretrained(options.out / "captioner", dtype=torch.float32)
    scores = {"mixed": evaluate(model, tokenizer, held_out_scenes(options.evaluate))}
    scores |= {style: evaluate(model, tokenizer, held_out_scenes(options.evaluate, style)) for style in STYLES}
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(file.stat().st_size for file in (options.out / "captioner").iterdir()),
        "steps": options.steps,
        "batch": options.batch,
        "seed": options.seed,
        "minutes": sum(line["seconds"] for line in log.lines) / 60,
        "held_out_scenes": options.evaluate,
        "held_out": scores,
        "curve": log.lines[:: max(len(log.lines) // 30, 1)],
    }
    (options.work / "captioner" / "record.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(scores, indent=1), flush=True)
