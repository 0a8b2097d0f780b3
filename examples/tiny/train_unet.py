"""Train the U-Net and the text encoder of `tadp-tiny` on rendered scenes, by denoising and (by default) grounding.

    python examples/tiny/train_unet.py --work DIR --out DIR --name first --steps 5000
    python examples/tiny/train_unet.py --work DIR --out DIR --start DIR/first/model --mix lists

The first run speaks mostly in sentences. The second starts from its averaged weights and hears bare lists of names
about as often, nearly half of them with names of absent classes, so that a list says as much as a sentence does.
The control, which learns by denoising alone, is `--grounding 0` under another name.

Grounding: Stable Diffusion learned which word is where from billions of pictures. At this scale plain denoising does
not, so a cross-entropy between the cross-attention and the rendered masks helps: the cells of a dog should attend to
"dog", cells of no named object to the other tokens. The model's card says so.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from scenes_cache import SceneCache, open_cache
from tokenizer import build_tokenizer
from torch import Tensor
from tqdm import tqdm
from train_vae import to_input
from training import Average, cosine_lr, load_checkpoint, save_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tadp.attention import AttentionRecorder
from tadp.datasets.scenes import CLASSES
from tadp.unet import read_layout

BATCH = 48
CELLS = 16  # latent cells a side
GROUNDED_LEVELS = (0, 1)
DISTRACTOR_SHARE = 1 / 8  # of the steps, the last ones, in which lists with absent classes are common


@dataclass(frozen=True)
class Mix:
    """Shares of a batch's texts: nothing, lists of names, lists with names of absent classes; the rest are sentences.

    Attributes:
        distractors_last: Share of lists with absent classes in the last steps, `DISTRACTOR_SHARE` of all.
        all_names: Share of the lists that name every visible object; the others name some of them.
    """

    empty: float
    lists: float
    distractors: float
    distractors_last: float
    all_names: float


MIXES = {
    "sentences": Mix(empty=0.1, lists=0.12, distractors=0.06, distractors_last=0.4, all_names=0.0),
    "lists": Mix(empty=0.1, lists=0.24, distractors=0.18, distractors_last=0.18, all_names=0.6),
}
UNET = {
    "sample_size": CELLS,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 96,
    "attention_head_dim": (1, 2, 3, 4),  # the number of heads; diffusers' name is historical
    "norm_num_groups": 8,
}
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "projection_dim": 96,
}
NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class PlainProcessor:
    """Attention by two matrix products, which at head width 32 trains faster on a CPU than the fused kernel."""

    def __init__(self, layer: str = "", level: int | None = None):
        self.layer, self.level = layer, level

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = (query @ key.transpose(1, 2) * attn.scale).softmax(dim=-1)
        if recorder is not None and encoder_hidden_states is not None and self.level in recorder.levels:
            recorder.store(self.layer, self.level, probabilities.unflatten(0, (-1, attn.heads)).float().mean(dim=1))
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    scenes = open_cache(options.work / "scenes", options.scenes, seed=0)
    vae = AutoencoderKL.from_pretrained(options.out / "vae")
    latents, cells = _latent_cache(vae, scenes, options.work)
    tokenizer = build_tokenizer(
        [caption for record in scenes.records for caption in (record["long"], *record["variants"])]
    )
    text_encoder, unet = build_models(tokenizer)
    if options.start:
        _load(unet, options.start / "unet" / "diffusion_pytorch_model.safetensors")
        _load(text_encoder, options.start / "text_encoder" / "model.safetensors")
    schedule = DDIMScheduler(**NOISE)
    optimizer = torch.optim.AdamW(
        [{"params": unet.parameters(), "scale": 1.0}, {"params": text_encoder.parameters(), "scale": 0.5}],
        lr=0.0,
        weight_decay=1e-2,
    )
    averages = {"unet_average": Average(unet), "text_average": Average(text_encoder)}
    parts = {"unet": unet, "text": text_encoder, "optimizer": optimizer, **averages}
    folder = options.work / options.name
    folder.mkdir(parents=True, exist_ok=True)
    done = load_checkpoint(folder / "checkpoint.pt", parts)
    log, started = [], time.time()
    for step in range(done, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * cosine_lr(step, options.steps, peak=1e-3)
        batch = _batch(scenes.records, latents, cells, step, options)
        log.append(_train_step(unet, text_encoder, tokenizer, optimizer, schedule.alphas_cumprod, batch, options))
        for average in averages.values():
            average.update(step)
        if (step + 1) % 100 == 0:
            rate = (step + 1 - done) / (time.time() - started)
            denoising, grounding = np.mean(log[-100:], axis=0)
            line = {
                "step": step + 1,
                "denoising": round(denoising, 4),
                "grounding": round(grounding, 4),
                "steps_per_second": round(rate, 2),
            }
            print(json.dumps(line), flush=True)
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            save_checkpoint(folder / "checkpoint.pt", step + 1, parts)
            _save(unet, text_encoder, tokenizer, averages, folder / "model")
    _save(unet, text_encoder, tokenizer, averages, options.out if options.name == "tiny" else folder / "model")
    vae.save_pretrained(folder / "model" / "vae")  # a whole model, for evaluate.py


def build_models(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Random models of the embedded checkpoint's shape."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT,
    )
    unet = UNet2DConditionModel(**UNET)
    levels = read_layout(unet).layer_levels
    unet.set_attn_processor({name: PlainProcessor(name, levels.get(name)) for name in unet.attn_processors})
    # "eager": backward through the fused kernel takes a seventh of a step at this size
    return CLIPTextModel._from_config(config, attn_implementation="eager"), unet


@torch.inference_mode()
def _latent_cache(vae: AutoencoderKL, scenes: SceneCache, work: Path) -> tuple[Tensor, Tensor]:
    """Scaled latents (N, 4, 16, 16) and the share of each class in each cell (N, 13, 16, 16), made once."""
    path = work / f"latents-{len(scenes.images)}.pt"
    if not path.exists():
        vae.eval()
        latents, cells = [], []
        for start in tqdm(range(0, len(scenes.images), 100), desc="encoding scenes"):
            with torch.autocast("cpu", torch.bfloat16):
                mode = vae.encode(to_input(scenes.images[start : start + 100])).latent_dist.mode()
            latents.append((mode * vae.config["scaling_factor"]).half())
            masks = torch.from_numpy(scenes.masks[start : start + 100]).long()
            cells.append(
                F.avg_pool2d(
                    F.one_hot(masks, len(CLASSES) + 1).permute(0, 3, 1, 2).float(), masks.shape[-1] // CELLS
                ).half()
            )
        torch.save({"latents": torch.cat(latents), "cells": torch.cat(cells)}, path)
    cached = torch.load(path, weights_only=True)
    return cached["latents"], cached["cells"]


def _batch(records: list[dict], latents: Tensor, cells: Tensor, step: int, options: argparse.Namespace) -> dict:
    """Everything random of a step, from the seed and the step alone, so that a resumed run repeats it."""
    rng = np.random.default_rng((options.seed, step))
    picked = rng.integers(len(records), size=BATCH)
    mix, last = MIXES[options.mix], step >= (1 - DISTRACTOR_SHARE) * options.steps
    captions = [_caption(records[k], rng, mix, mix.distractors_last if last else mix.distractors) for k in picked]
    uniform, normal = rng.random(BATCH), rng.standard_normal(BATCH)
    # Features are read at t = 0, so low noise gets more than its share.
    kind = rng.choice(3, size=BATCH, p=(0.4, 0.2, 0.4))
    time_share = np.choose(kind, (1 / (1 + np.exp(-normal)), uniform, uniform**2))
    return {
        "captions": captions,
        "latents": latents[picked].float(),
        "cells": cells[picked].float(),
        "noise": torch.from_numpy(rng.standard_normal((BATCH, 4, CELLS, CELLS)).astype(np.float32)),
        "timesteps": torch.from_numpy(np.minimum(time_share * 1000, 999).astype(np.int64)),
    }


def _caption(record: dict, rng: np.random.Generator, mix: Mix, distractors: float) -> str:
    """A caption, its long form, a list of names, a list with absent names, or nothing."""
    draw = rng.random()
    if draw < mix.empty:
        return ""
    names = list(record["names"])
    if draw < mix.empty + distractors:
        absent = [name for name in CLASSES if name not in names]
        extra = rng.choice(absent, size=rng.integers(1, len(absent) + 1), replace=False)
        return " ".join(rng.permutation(names + list(extra)))
    if draw < mix.empty + distractors + mix.lists and names:
        # a share of 0 draws nothing, so that the first run's random numbers are what they were
        every = mix.all_names > 0 and rng.random() < mix.all_names
        return " ".join(rng.permutation(names)[: len(names) if every else rng.integers(1, len(names) + 1)])
    if draw > 0.9:
        return record["long"]
    return record["caption"] if draw > 0.85 else record["variants"][rng.integers(len(record["variants"]))]


def _train_step(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    optimizer: torch.optim.Optimizer,
    alphas_cumprod: Tensor,
    batch: dict,
    options: argparse.Namespace,
) -> tuple[float, float]:
    ids = tokenizer(
        batch["captions"], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    alpha_bar = alphas_cumprod[batch["timesteps"]].view(-1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * batch["latents"] + (1 - alpha_bar).sqrt() * batch["noise"]
    velocity = alpha_bar.sqrt() * batch["noise"] - (1 - alpha_bar).sqrt() * batch["latents"]
    recorder = AttentionRecorder(GROUNDED_LEVELS if options.grounding else ())
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = text_encoder(ids).last_hidden_state
        predicted = unet(noisy, batch["timesteps"], embeddings, cross_attention_kwargs={"recorder": recorder}).sample
    denoising = F.mse_loss(predicted.float(), velocity)
    loss, grounding = denoising, 0.0
    if options.grounding:
        attention = recorder.close({level: (CELLS >> level, CELLS >> level) for level in GROUNDED_LEVELS})
        grounded = grounding_loss(attention, ids, batch["cells"], tokenizer)
        grounded = (grounded * alpha_bar.flatten()).mean()
        loss, grounding = denoising + options.grounding * grounded, grounded.item()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return denoising.item(), grounding


def grounding_loss(attention: dict[int, Tensor], ids: Tensor, cells: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Cross-entropy between what each cell holds and the tokens it attends to, (B,).

    Args:
        attention: For each level, (B, 77, h, w).
        ids: Token ids, (B, 77).
        cells: Share of background and of each class in each finest cell, (B, 13, 16, 16).
        tokenizer: Tells the tokens that name a class.
    """
    class_ids = torch.tensor([tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in CLASSES])
    named = (ids[:, :, None] == class_ids).float()  # (B, 77, 12)
    tokens = torch.cat([1 - named.sum(dim=-1, keepdim=True), named], dim=-1)  # (B, 77, 13): other words, then classes
    mentioned = named.amax(dim=1)[:, :, None, None]
    target = torch.cat(
        [cells[:, :1] + (cells[:, 1:] * (1 - mentioned)).sum(dim=1, keepdim=True), cells[:, 1:] * mentioned], dim=1
    )
    losses = []
    for maps in attention.values():
        share = torch.einsum("blhw,blk->bkhw", maps, tokens)
        wanted = F.avg_pool2d(target, target.shape[-1] // maps.shape[-1])
        losses.append(-(wanted * share.clamp_min(1e-4).log()).sum(dim=1).mean(dim=(1, 2)))
    return torch.stack(losses).mean(dim=0)


def _load(model: torch.nn.Module, path: Path) -> None:
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})


def _save(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    averages: dict[str, Average],
    folder: Path,
) -> None:
    """Write the averaged weights in diffusers layout, leaving the models as they are."""
    fresh_text, fresh_unet = build_models(tokenizer)
    fresh_unet.load_state_dict(averages["unet_average"].shadow)
    fresh_text.load_state_dict(averages["text_average"].shadow)
    fresh_unet.half().save_pretrained(folder / "unet")
    fresh_text.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(**NOISE).save_pretrained(folder / "scheduler")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="scenes and checkpoints; a killed run goes on from here"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that has vae/ and gets unet/, text_encoder/, tokenizer/"
    )
    parser.add_argument("--name", default="tiny", help="checkpoint folder in --work; any other name leaves --out alone")
    parser.add_argument(
        "--grounding", type=float, default=0.2, help="weight of the attention's cross-entropy; 0 is plain denoising"
    )
    parser.add_argument("--start", type=Path, help="begin from this folder's unet/ and text_encoder/, not from noise")
    parser.add_argument("--mix", choices=MIXES, default="sentences", help="what the texts are")
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--scenes", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
