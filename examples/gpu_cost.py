"""How much time and memory do a pass and a training step take on a GPU?

    python examples/gpu_cost.py --out docs/results/gpu               # Stable Diffusion 1.5's size, takes some minutes
    python examples/gpu_cost.py --device cpu --size tiniest --batch 4   # to check that it runs; memory is not measured

Weights are random, because neither time nor memory depends on them. A pass consists of VAE encoder and U-Net, with
attention attached at levels 1 and 2. It is measured for tadp in several number formats and for diffusers by hand
("plain" in the JSON file), which writes out every attention probability like the paper's released code. A training
step consists of forward, backward and AdamW of TADPForSemanticSegmentation with 150 classes, starting from latents.
Both are measured without the text encoder. All measurements run in one process, one by one.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from benchmarking.counting import relative_error
from benchmarking.gpu import allow_tf32, measure, page
from benchmarking.variants import SIZES, Variant, build, encode, extract

from tadp import TADPForSemanticSegmentation

LAST, HALF = torch.channels_last, torch.bfloat16
EXACT = "tadp, float32"
PASSES = {  # name: variant, whether TensorFloat-32 is allowed
    "plain, float32": (Variant("", plain=True), False),
    EXACT: (Variant(""), False),
    "plain, TensorFloat-32": (Variant("", plain=True), True),
    "tadp, TensorFloat-32": (Variant(""), True),
    "plain, bfloat16": (Variant("", dtype=HALF, plain=True), False),
    "tadp, bfloat16": (Variant("", dtype=HALF), False),
    "tadp, bfloat16, channels_last": (Variant("", dtype=HALF, memory_format=LAST), False),
}
COMPILED = {
    "tadp, bfloat16, channels_last, compiled": (Variant("", dtype=HALF, memory_format=LAST, compiled=True), False)
}
PARTS = 4
CHECKPOINTED = "U-Net trained, bfloat16, gradient checkpointing"
STEPS: dict[str, dict[str, Any]] = {
    "U-Net trained, TensorFloat-32": {"tf32": True},
    "U-Net trained, bfloat16": {"half": True},
    CHECKPOINTED: {"half": True, "checkpointing": True},
    f"{CHECKPOINTED}, batch in {PARTS} parts": {"half": True, "checkpointing": True, "parts": PARTS},
    "LoRA of rank 16, bfloat16": {"half": True, "tune": "lora"},
    "LoRA of rank 16, bfloat16, gradient checkpointing": {"half": True, "tune": "lora", "checkpointing": True},
    "U-Net frozen, bfloat16": {"half": True, "tune": "nothing"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15", help="size of the models (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed rounds, after two for warming up (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="add a row with torch.compile; takes a minute or two")
    parser.add_argument("--device", default="cuda", help="device to measure (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here. Use --device cpu --size tiniest to check that the script runs.")
    if options.batch % PARTS:
        parser.error(f"--batch {options.batch} cannot be split into {PARTS} parts. Give a multiple of {PARTS}.")
    steps = {name: training_step(options, **settings) for name, settings in STEPS.items()}
    variants = PASSES | (COMPILED if options.compile else {})
    passes = {name: one_pass(options, *settings) for name, settings in variants.items()}
    exact = passes[EXACT]["maps"]
    for row in passes.values():
        maps = row.pop("maps")
        row["error"] = relative_error(maps, exact) if maps else None
    report = page(options, passes, steps)
    print(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(report)
        options.out.with_suffix(".json").write_text(json.dumps({"passes": passes, "steps": steps}, indent=2) + "\n")


@torch.inference_mode()
def one_pass(options: argparse.Namespace, variant: Variant, tf32: bool) -> dict[str, Any]:
    allow_tf32(tf32)
    backbone, image, text = build(options.size, variant, options.device)
    image, text = image.repeat(options.batch, 1, 1, 1), text.take([0] * options.batch).to(dtype=variant.dtype)

    def forward() -> list[torch.Tensor]:
        return extract(backbone, variant, encode(backbone, variant, image.to(variant.dtype)), text)

    figures = measure(forward, options)
    return figures | {"maps": None if variant.plain else [level[:1].float().cpu() for level in forward()]}


def training_step(
    options: argparse.Namespace, *, tf32=False, half=False, checkpointing=False, parts=1, tune="all"
) -> dict[str, Any]:
    allow_tf32(tf32)
    backbone, image, text = build(options.size, Variant(""), options.device)
    size = tuple(image.shape[-2:])
    model = TADPForSemanticSegmentation(backbone, class_names=[f"class {k}" for k in range(150)], tune=tune)
    model.to(options.device).train()
    backbone.vae.to("cpu")
    if checkpointing:
        model.backbone.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-5))
    share = options.batch // parts
    latents = torch.randn(share, 4, size[0] // 8, size[1] // 8, device=options.device)
    masks, texts = torch.randint(150, (share, *size), device=options.device), text.take([0] * share)

    def step() -> None:
        for _ in range(parts):
            with torch.autocast(latents.device.type, HALF) if half else nullcontext():
                loss = model(None, texts, masks, latents=latents, image_size=size).loss
            (loss / parts).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measure(step, options)


if __name__ == "__main__":
    main()
