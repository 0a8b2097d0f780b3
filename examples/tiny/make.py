"""Train the bundled checkpoint `tadp-tiny` from scratch: scenes, VAE, captioner, U-Net, and the files that ship.

    python examples/tiny/make.py --work DIR --out DIR/tadp-tiny --seed 0

Takes about five hours on two cores. A run that was killed continues where it stopped. Nothing is downloaded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scenes_cache import open_cache

HERE = Path(__file__).parent
PARTS = ("vae", "unet", "captioner")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes, checkpoints and logs, about 4 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint, under 20 MB")
    parser.add_argument("--seed", type=int, default=0, help="seed of all training runs")
    parser.add_argument("--scenes", type=int, help="for a trial: number of scenes to train on")
    for part in PARTS:
        parser.add_argument(f"--{part}-steps", type=int, help=f"for a trial: steps of every run of train_{part}.py")
    options = parser.parse_args()
    raw = options.work / "out"
    open_cache(options.work / "scenes", options.scenes or 40_000, seed=0)  # before two scripts need them at once
    running = {part: _start(part, raw, options) for part in ("captioner", "vae")}
    _wait(running, "vae")
    first = options.work / "first" / "model"
    running["unet"] = _start("unet", raw, options, "--name", "first", "--steps", 5_000)
    _wait(running, "unet")
    running["unet"] = _start("unet", raw, options, "--start", first, "--mix", "lists")
    _wait(running, "unet")
    _wait(running, "captioner")
    pack(raw, options.out)
    print(f"{options.out}: {sum(f.stat().st_size for f in options.out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


def pack(raw: Path, out: Path) -> None:
    """Copy the trained parts to the folder that ships, with the weights of the VAE in half precision."""
    for part in ("unet", "text_encoder", "tokenizer", "scheduler", "captioner", "vae"):
        shutil.copytree(raw / part, out / part, dirs_exist_ok=True)
    weights = out / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}, weights)
    # transformers takes the dtype from here and diffusers takes float32; a pipeline of both needs equal dtypes
    config = json.loads((out / "text_encoder" / "config.json").read_text()) | {"dtype": "float32"}
    (out / "text_encoder" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _start(part: str, raw: Path, options: argparse.Namespace, *extra: object) -> subprocess.Popen:
    """Start the training of a part, with one thread, which is faster than running parts one by one with two threads."""
    print(f"{time.strftime('%H:%M')} train_{part}.py", flush=True)
    arguments = ["--work", options.work, "--out", raw, "--seed", options.seed, *extra]
    steps = getattr(options, f"{part}_steps")
    for name, value in (("--steps", steps), ("--scenes", options.scenes)):
        arguments += [name, value] if value else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(HERE / f"train_{part}.py"), *map(str, arguments)], env=environment)


def _wait(running: dict[str, subprocess.Popen], part: str) -> None:
    code = running.pop(part).wait()
    if code:
        for process in running.values():
            process.terminate()
        raise SystemExit(f"train_{part}.py ended with exit code {code}. Run the same command again to continue.")


if __name__ == "__main__":
    main()
