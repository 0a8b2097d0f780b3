"""Train the captioner of `tadp-tiny`: a small BLIP, from scratch, on rendered scenes.

    python examples/tiny/train_captioner.py --work DIR --out DIR --minutes 60

The vision tower is trained first, on dense targets. Then the text decoder learns to describe what it sees. If the run
was killed or the minutes were too few, run it again to continue. The batches depend only on the steps and the seed.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captioner_data import CaptionData, Form
from captioner_figures import Log, evaluate, held_out_scenes, write_record
from captioner_model import VISION, Heads, build_model, save_captioner
from torch import nn
from training import autocast, cosine_lr, load_checkpoint, save_checkpoint
from transformers import BlipForConditionalGeneration

PEAK_LR = 1.2e-3
VISION_SHARE = 0.3  # share of steps before the text decoder starts
LONG_SHARE = 0.3  # share of long captions, in batches with text
REPORT_STEPS, SAVE_STEPS = 500, 500


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
            print(f"{options.minutes} minutes are over at step {step + 1}. Run again to continue.", flush=True)
            return
    save_captioner(model, data.tokenizer, options.out / "captioner")
    write_record(data.tokenizer, log, options)


def _train_step(
    model: BlipForConditionalGeneration,
    heads: Heads,
    optimizer: torch.optim.Optimizer,
    data: CaptionData,
    step: int,
    options: argparse.Namespace,
) -> tuple[float, float]:
    """Take one training step and return the vision loss and the text loss."""
    rng = np.random.default_rng((options.seed, step))
    speaks = step >= VISION_SHARE * options.steps
    form: Form = "long" if rng.random() < LONG_SHARE else "short"
    batch = data.batch(rng, options.batch, form=form)
    with autocast():
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes, checkpoint, log and record")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives captioner/")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; run again to continue")
    parser.add_argument(
        "--steps", type=int, default=13_000, help="training steps; with the seed, they determine the result"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--scenes", type=int, default=40_000, help="cached scenes; the other numbers scale with it")
    options = parser.parse_args()
    options.styled = options.scenes * 3 // 20  # additional scenes in each style except plain
    options.evaluate = min(options.scenes // 40, 1000)  # held-out scenes of mixed styles and of each style
    return options


if __name__ == "__main__":
    main()
