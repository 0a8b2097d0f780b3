"""Train the U-Net and the text encoder of `tadp-tiny` on rendered scenes, by denoising and (by default) grounding.

    python examples/tiny/train_unet.py --work DIR --out DIR --name first --steps 5000
    python examples/tiny/train_unet.py --work DIR --out DIR --start DIR/first/model --mix lists

The first run mostly trains on sentences. The second starts from its averaged weights and trains on plain lists of names
about as often, nearly half of them with names of absent classes, so that a list works as well as a sentence. The
control, which only learns to denoise, uses `--grounding 0` and another name.

Grounding: Stable Diffusion learned from billions of pictures where each word belongs. At this scale, denoising does not
teach that, so a cross-entropy between the cross-attention and the rendered masks is added: the cells of a dog should
attend to "dog", and cells without a named object to the other tokens. The model card says so.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from grounding import GROUNDED_LEVELS, grounding_loss
from scenes_cache import open_cache
from tokenizer import build_tokenizer
from torch import Tensor
from training import Average, autocast, cosine_lr, load_checkpoint, save_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer
from unet_data import MIXES, draw_batch, latent_cache
from unet_model import CELLS, NOISE, build_models, load_weights, save_model

from tadp.diffusion.attention import AttentionRecorder


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    scenes = open_cache(options.work / "scenes", options.scenes, seed=0)
    vae = AutoencoderKL.from_pretrained(options.out / "vae")
    latents, cells = latent_cache(vae, scenes, options.work)
    captions = [caption for record in scenes.records for caption in (record["long"], *record["variants"])]
    tokenizer = build_tokenizer(captions)
    text_encoder, unet = build_models(tokenizer)
    if options.start:
        load_weights(unet, options.start / "unet" / "diffusion_pytorch_model.safetensors")
        load_weights(text_encoder, options.start / "text_encoder" / "model.safetensors")
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
        batch = draw_batch(scenes.records, latents, cells, step, options)
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
            save_model(unet, text_encoder, tokenizer, averages, folder / "model")
    save_model(unet, text_encoder, tokenizer, averages, options.out if options.name == "tiny" else folder / "model")
    vae.save_pretrained(folder / "model" / "vae")  # completes the model for evaluate.py


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
    with autocast():
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of scenes and checkpoints; call again to continue",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder with vae/; receives the other parts",
    )
    parser.add_argument("--name", default="tiny", help="checkpoint folder in --work; --out is only written for 'tiny'")
    parser.add_argument(
        "--grounding", type=float, default=0.2, help="weight of the attention's cross-entropy; 0 for only denoising"
    )
    parser.add_argument(
        "--start", type=Path, help="folder whose unet/ and text_encoder/ to start from, instead of random weights"
    )
    parser.add_argument("--mix", choices=MIXES, default="sentences", help="kinds of training texts")
    parser.add_argument("--steps", type=int, default=6_000, help="training steps")
    parser.add_argument("--scenes", type=int, default=24_000, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
