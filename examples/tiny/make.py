"""Make the embedded checkpoint `tadp-tiny` from nothing: scenes, VAE, captioner, U-Net, and the files that ship.

    python examples/tiny/make.py --work DIR --out DIR/tadp-tiny --seed 0

Takes about three hours on two cores; a killed run goes on where it was. Nothing is downloaded.
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

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scenes, checkpoints and logs, about 4 GB")
    parser.add_argument("--out", type=Path, required=True, help="the finished checkpoint, under 20 MB")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raw = options.work / "out"
    common = ["--work", options.work, "--seed", options.seed]
    captioner = _start("train_captioner.py", *common, "--out", raw / "captioner")
    _wait(_start("train_vae.py", *common, "--out", raw), "train_vae.py")
    _wait(_start("train_unet.py", *common, "--out", raw), "train_unet.py")
    _wait(captioner, "train_captioner.py")
    pack(raw, options.out)
    print(f"{options.out}: {sum(f.stat().st_size for f in options.out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


def pack(raw: Path, out: Path) -> None:
    """Copy the trained parts, in half precision, to the folder that ships."""
    for part in ("unet", "text_encoder", "tokenizer", "scheduler", "captioner", "vae"):
        shutil.copytree(raw / part, out / part, dirs_exist_ok=True)
    weights = out / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}, weights)
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


def _start(script: str, *arguments: object) -> subprocess.Popen:
    """Run a script beside the others, one thread each: two processes of one thread do more than one of two."""
    print(f"{time.strftime('%H:%M')} {script}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(HERE / script), *map(str, arguments)], env=environment)


def _wait(process: subprocess.Popen, script: str) -> None:
    if process.wait():
        raise SystemExit(f"{script} ended with exit code {process.returncode}; run the same command again to go on.")


if __name__ == "__main__":
    main()
