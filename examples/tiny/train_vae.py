"""Train the VAE of `tadp-tiny`, with three downsamplings and four latent channels, like Stable Diffusion's.

python examples/tiny/train_vae.py --work DIR --out DIR
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from scenes_cache import SceneCache, open_cache
from training import Average, autocast, cosine_lr, load_checkpoint, save_checkpoint

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 8,
    "sample_size": 128,
}
KL_WEIGHT = 1e-4  # weight of the mean KL per latent value; keeps latents close to normal, and blur low
CROP, CROP_BATCH, FULL_BATCH = 64, 16, 4
FULL_SHARE = 0.15  # share of last steps with whole scenes, as the middle attention and the norms depend on size


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    cache = open_cache(options.work / "scenes", options.scenes, seed=0)
    vae = build_vae()
    average = Average(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-3)
    parts = {"vae": vae, "average": average, "optimizer": optimizer}
    checkpoint = options.work / "vae" / "checkpoint.pt"
    done = load_checkpoint(checkpoint, parts)
    losses, started = [], time.time()
    for step in range(done, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, options.steps, peak=2e-3)
        losses.append(_train_step(vae, optimizer, _batch(cache, step, options)))
        average.update(step)
        if (step + 1) % 100 == 0:
            rate = (step + 1 - done) / (time.time() - started)
            mse, kl = np.mean(losses[-100:], axis=0)
            print(f"step {step + 1}/{options.steps}  mse {mse:.4f}  kl {kl:.2f}  {rate:.2f} steps/s", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            save_checkpoint(checkpoint, step + 1, parts)
    vae.load_state_dict(average.shadow)
    _finish(vae, options)


def build_vae() -> AutoencoderKL:
    """Build a VAE whose residual branches start at zero, so that the first steps train a linear codec."""
    vae = AutoencoderKL(**CONFIG)
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            torch.nn.init.zeros_(module.bias)
        if name.endswith((".conv2", ".to_out.0")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return vae


def _batch(cache: SceneCache, step: int, options: argparse.Namespace) -> torch.Tensor:
    """Images in [-1, 1]: random crops, and whole scenes at the end. They depend only on the seed and the step."""
    rng = np.random.default_rng((options.seed, step))
    if step >= (1 - FULL_SHARE) * options.steps:
        images = cache.images[np.sort(rng.integers(len(cache.images), size=FULL_BATCH))]
    else:
        corners = rng.integers(0, cache.images.shape[1] - CROP + 1, size=(CROP_BATCH, 2))
        picked = rng.integers(len(cache.images), size=CROP_BATCH)
        images = np.stack(
            [cache.images[k, y : y + CROP, x : x + CROP] for k, (y, x) in zip(picked, corners, strict=True)]
        )
    if rng.random() < 0.5:
        images = images[:, :, ::-1]
    return to_input(images)


def to_input(images: np.ndarray) -> torch.Tensor:
    """Convert (B, H, W, 3), uint8, to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def _train_step(vae: AutoencoderKL, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> tuple[float, float]:
    with autocast():
        posterior = vae.encode(images).latent_dist
        restored = vae.decode(posterior.sample()).sample
    error = restored.float() - images
    mse = error.square().mean()
    # L1 keeps edges sharper than only MSE. Differences of neighbouring pixels penalise blurred edges directly.
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = mse + 0.25 * error.abs().mean() + 0.25 * edges + KL_WEIGHT * kl
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return mse.item(), kl.item()


@torch.inference_mode()
def _finish(vae: AutoencoderKL, options: argparse.Namespace) -> None:
    """Measure the scale of the latents on training scenes and the error on held-out scenes, and save the VAE."""
    vae.eval()
    count = min(options.scenes, 500)
    train = open_cache(options.work / "scenes", count, seed=0)
    held_out = open_cache(options.work / "scenes", count, seed=1)
    latents = torch.cat([vae.encode(to_input(part)).latent_dist.mode() for part in np.array_split(train.images, 20)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    errors = []
    for part in np.array_split(held_out.images, 20):
        images = to_input(part)
        errors.append((vae.decode(vae.encode(images).latent_dist.mode()).sample - images).square().mean().item())
    record = {"steps": options.steps, "seed": options.seed}
    record |= {"held_out_mse": np.mean(errors), "scaling_factor": vae.config["scaling_factor"]}
    print(record)
    vae.save_pretrained(options.out / "vae")
    (options.work / "vae" / "record.json").write_text(json.dumps(record, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of scenes and checkpoints; call again to continue",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that receives vae/")
    parser.add_argument("--steps", type=int, default=5_000, help="training steps")
    parser.add_argument("--scenes", type=int, default=40_000, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
