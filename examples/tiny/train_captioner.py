"""Train the captioner of `tadp-tiny`: a small BLIP, from scratch, on rendered scenes.

    python examples/tiny/train_captioner.py --work DIR --out DIR --minutes 60

The vision tower learns first, from dense targets; then the text decoder learns to say what it sees. Run it again after
a kill, or when the minutes were not enough, and it goes on; steps and seed alone decide which batches it sees.
"""

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captioner_data import CELL, MAX_WORDS, Batch, CaptionData, Form, split, to_pixels
from scenes_cache import SIZE
from torch import Tensor, nn
from training import cosine_lr, load_checkpoint, save_checkpoint
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    GenerationConfig,
)

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, COLORS, STYLES, Scene, Scenes, Style

PATCH = 16
VISION = {"hidden_size": 160, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 5}
TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
PEAK_LR = 1.2e-3
VISION_SHARE = 0.3  # of all steps, before the text decoder starts
LONG_SHARE = 0.3  # of the batches with text
BACKGROUND_WEIGHT = 0.4  # most cells are background
REPORT_STEPS, SAVE_STEPS = 500, 500
HELD_OUT_SEED = 1


class Heads(nn.Module):
    """What the vision tower is taught with; thrown away at the end."""

    def __init__(self, width: int):
        super().__init__()
        cells = (PATCH // CELL) ** 2
        self.classes = nn.Linear(width, cells * (len(CLASSES) + 1))
        self.colors = nn.Linear(width, cells * len(COLORS))
        self.present = nn.Linear(width, len(CLASSES))
        self.places = nn.Linear(width, len(BACKGROUNDS))
        self.styles = nn.Linear(width, len(STYLES))

    def forward(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Sum of the losses on the tower's tokens, (B, 1 + patches, D), the class token first."""
        whole, patches = tokens[:, 0], tokens[:, 1:]
        weight = torch.ones(len(CLASSES) + 1)
        weight[0] = BACKGROUND_WEIGHT
        return (
            2 * F.cross_entropy(_cells(self.classes(patches)).float(), batch.classes, weight)
            + 0.5 * F.cross_entropy(_cells(self.colors(patches)).float(), batch.colors)
            + 2 * F.binary_cross_entropy_with_logits(self.present(whole).float(), batch.present)
            + 0.2 * F.cross_entropy(self.places(whole).float(), batch.places)
            + 0.1 * F.cross_entropy(self.styles(whole).float(), batch.styles)
        )


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    folder = options.work / "captioner"
    data = CaptionData(options.work, scenes=options.scenes, styled=options.styled)
    model, heads = build_model(data.tokenizer), Heads(VISION["hidden_size"])
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], lr=0.0, betas=(0.9, 0.98), weight_decay=0.03, fused=True
    )
    parts = {"model": model, "heads": heads, "optimizer": optimizer}
    done = load_checkpoint(folder / "checkpoint.pt", parts)
    log = Log(folder / "log.json", options.steps, done)
    held_out = held_out_scenes(min(options.evaluate, 300))
    started = time.time()
    for step in range(done, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, options.steps, peak=PEAK_LR)
        log.add(_train_step(model, heads, optimizer, data, step, options))
        if (step + 1) % REPORT_STEPS == 0:
            speaks = step + 1 > VISION_SHARE * options.steps
            log.report(step + 1, evaluate(model, data.tokenizer, held_out) if speaks else {})
        late = time.time() - started > 60 * options.minutes
        if (step + 1) % SAVE_STEPS == 0 or late or step + 1 == options.steps:
            log.save()
            save_checkpoint(folder / "checkpoint.pt", step + 1, parts)
        if late and step + 1 < options.steps:
            print(f"{options.minutes} minutes are over at step {step + 1}; run again to go on.", flush=True)
            return
    save_captioner(model, data.tokenizer, options.out / "captioner")
    _write_record(data.tokenizer, log, options)


def build_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """A BLIP of 2.3 million parameters with random weights."""
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    ids |= {"sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    # initializer_range: BlipVisionConfig's default is 1e-10, for loading trained weights only.
    vision = {"image_size": SIZE, "patch_size": PATCH, "initializer_range": 0.02, **VISION}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_WORDS, **ids, **TEXT}
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    model.generation_config = GenerationConfig(**{k: v for k, v in ids.items() if k != "sep_token_id"})
    position = model.vision_model.embeddings.position_embedding
    position.data[0, 1:] = _sincos(SIZE // PATCH, VISION["hidden_size"])
    return model


@torch.no_grad()
def evaluate(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, scenes: list[Scene]) -> dict[str, float]:
    """Greedy captions against what is visible.

    Returns:
        Precision and recall of the objects named; of those that are there, the share named in the right colour; the
        share of right places; the share of captions right word by word.
    """
    model.eval()
    named = visible = right = colors = places = exact = 0
    for start in range(0, len(scenes), 100):
        part = scenes[start : start + 100]
        pixels = to_pixels(np.stack([scene.image for scene in part]))
        ids = model.generate(pixel_values=pixels, max_new_tokens=40)
        for scene, text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            words = split(text)
            said = {word: before for before, word in pairwise(words) if word in CLASSES}
            colors_there = {item.name: item.color for item in scene.visible}
            hits = said.keys() & colors_there.keys()
            named, visible, right = named + len(said), visible + len(colors_there), right + len(hits)
            colors += sum(said[name] == colors_there[name] for name in hits)
            places += text.endswith(BACKGROUNDS[scene.layout.background][0])
            exact += text == scene.caption()
    model.train()
    found = {"precision": right / max(named, 1), "recall": right / visible, "colors": colors / max(right, 1)}
    return found | {"places": places / len(scenes), "exact": exact / len(scenes)}


def held_out_scenes(count: int, style: Style | None = None) -> list[Scene]:
    """Scenes of a seed that is never trained on."""
    return list(Scenes(count, seed=HELD_OUT_SEED, size=SIZE, style=style))


def save_captioner(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write the transformers layout: configs, tokenizer, image processor, weights in half precision."""
    image_processor = BlipImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.half().save_pretrained(folder)
    model.float().load_state_dict(state)


class Log:
    """Losses and held-out figures, printed and kept through a restart."""

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


def _train_step(
    model: BlipForConditionalGeneration,
    heads: Heads,
    optimizer: torch.optim.Optimizer,
    data: CaptionData,
    step: int,
    options: argparse.Namespace,
) -> tuple[float, float]:
    """One update; returns the vision and the text loss."""
    rng = np.random.default_rng((options.seed, step))
    speaks = step >= VISION_SHARE * options.steps
    form: Form = "long" if rng.random() < LONG_SHARE else "short"
    batch = data.batch(rng, options.batch, form=form)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.vision_model(pixel_values=batch.pixels).last_hidden_state
        vision_loss = heads(tokens, batch)
        logits = (
            model.text_decoder(input_ids=batch.words[:, :-1], encoder_hidden_states=tokens).logits if speaks else None
        )
    text_loss = torch.zeros(())
    if logits is not None:
        text_loss = F.cross_entropy(logits.float().flatten(0, 1), batch.words[:, 1:].flatten(), ignore_index=0)
    loss = 0.5 * vision_loss + 2 * text_loss if speaks else vision_loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return vision_loss.item(), text_loss.item()


def _cells(logits: Tensor) -> Tensor:
    """(B, patches, cells of a patch * K) to (B, K, H / CELL, W / CELL)."""
    side, inner = SIZE // PATCH, PATCH // CELL
    logits = logits.unflatten(1, (side, side)).unflatten(-1, (-1, inner, inner))  # B, y, x, K, v, u
    return logits.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _sincos(side: int, width: int) -> Tensor:
    """Sine and cosine of row and column, (side * side, width), scaled to the size of fresh patch embeddings."""
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], dim=-1)
    return 0.2 * grid.flatten(0, 1)


def _write_record(tokenizer: BertTokenizer, log: Log, options: argparse.Namespace) -> None:
    """Measure what was written, in half precision, and keep the figures with the history."""
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, checkpoint, log and record")
    parser.add_argument("--out", type=Path, required=True, help="the captioner is written to captioner/ in it")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to go on")
    parser.add_argument("--steps", type=int, default=13_000, help="decides the result, with the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=40_000, help="cached scenes; fewer also mean fewer of the others")
    options = parser.parse_args()
    options.styled = options.scenes * 3 // 20  # besides, in each style but plain
    options.evaluate = min(options.scenes // 40, 1000)  # held-out, of mixed styles and of each style
    return options


if __name__ == "__main__":
    main()
