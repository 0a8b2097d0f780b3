"""How much time and memory do a pass and a training step take on a GPU, and what limits them?

    python examples/gpu_cost.py --out docs/results/gpu               # Stable Diffusion 1.5's size, takes some minutes
    python examples/gpu_cost.py --device cpu --size tiniest --batch 4   # to check that it runs; memory is not measured

The parts run in order of importance, and after each row the page is written again: passes per second in bfloat16 by
batch size, training steps, compiled passes, the time by kind of kernel, other formats with the memory of diffusers by
hand, and, with --savings MODEL, the ways to save memory. Weights are random, because neither time nor memory depends on
them. A pass consists of VAE encoder and U-Net, with attention attached at levels 1 and 2. The text is encoded once,
beforehand. A training step consists of forward, backward and AdamW of TADPForSemanticSegmentation with 150 classes,
starting from latents.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from benchmarking.counting import relative_error
from benchmarking.gpu import allow_tf32, limited, measure, page, share_by_kind
from benchmarking.gpu_rows import COMPILED, EXACT, FAST, HALF, PARTS, PASSES, STEPS, TRAINED
from benchmarking.variants import SIZES, Variant, build
from benchmarking.ways import encode, extract
from counting.savings import savings_rows
from torch import Tensor

from tadp import TADPForSemanticSegmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15", help="size of the models (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[16, 32, 64], help="further batch sizes (default: 16 32 64)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed rounds, on a GPU after two for warming up (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="add compiled passes; takes a minute or two")
    parser.add_argument("--savings", metavar="MODEL", help="add the ways to save memory, measured on this model")
    parser.add_argument("--device", default="cuda", help="device to measure (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here. Use --device cpu --size tiniest to check that the script runs.")
    if options.batch % PARTS:
        parser.error(f"--batch {options.batch} cannot be split into {PARTS} parts. Give a multiple of {PARTS}.")
    savings: list[str] = []
    results: dict[str, dict[str, dict]] = {"batches": {}, "steps": {}, "kernels": {}, "passes": {}}

    def keep(part: str, name: str, row: dict[str, Any]) -> None:
        figures = {key: value for key, value in row.items() if key != "maps"}
        results[part][name] = row if part == "passes" else figures
        print(f"{part}: {name}: {json.dumps(figures)}", flush=True)
        write()

    def write() -> str:
        exact = results["passes"].get(EXACT, {}).get("maps")
        for row in results["passes"].values():
            row["error"] = relative_error(row["maps"], exact) if row.get("maps") and exact else None
        rows = {
            part: {name: {key: value for key, value in row.items() if key != "maps"} for name, row in rows.items()}
            for part, rows in results.items()
        }
        report = page(options, rows, savings)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.with_suffix(".md").write_text(report)
            options.out.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
        return report

    for batch in (options.batch, *options.batches):
        keep("batches", str(batch), limited(lambda batch=batch: one_pass(options, *PASSES[FAST], batch=batch)))
    fitting = {int(size): int(size) / row["seconds"] for size, row in results["batches"].items() if "seconds" in row}
    for batch in {options.batch, max(fitting, key=lambda size: fitting[size])}:
        for name, settings in STEPS.items() if batch == options.batch else [(TRAINED, STEPS[TRAINED])]:
            other = "" if batch == options.batch else f", batch of {batch}"
            keep("steps", name + other, limited(lambda s=settings, b=batch: training_step(options, batch=b, **s)))
    if options.compile:
        keep("steps", f"{TRAINED}, compiled", limited(lambda: training_step(options, half=True, compiled="default")))
        for name, settings in COMPILED.items():
            keep("passes", name, limited(lambda s=settings: one_pass(options, *s)))
    keep("kernels", "pass", one_pass(options, *PASSES[FAST], run=share_by_kind))
    keep("kernels", "training step", training_step(options, half=True, run=share_by_kind))
    for name, settings in PASSES.items():
        keep("passes", name, limited(lambda s=settings: one_pass(options, *s)))
    for row in savings_rows(options.savings, options.device, side_px=SIZES[options.size][2]) if options.savings else ():
        savings.append(row)
        write()
    print(write())


@torch.inference_mode()
def one_pass(
    options: argparse.Namespace, variant: Variant, tf32: bool, *, batch: int | None = None, run: Callable = measure
) -> dict[str, Any]:
    allow_tf32(tf32)
    batch = batch or options.batch
    backbone, image, text = build(options.size, variant, options.device)
    image, text = image.repeat(batch, 1, 1, 1), text.take([0] * batch).to(dtype=variant.dtype)

    def forward() -> dict[str, Tensor]:
        return extract(backbone, variant, encode(backbone, variant, image.to(variant.dtype)), text)

    figures = run(forward, options)
    maps = {name: level[:1].float().cpu() for name, level in forward().items()} if run is measure else {}
    return figures | {"batch": batch} | ({"maps": maps} if maps else {})


def training_step(
    options: argparse.Namespace,
    *,
    batch: int | None = None,
    run: Callable = measure,
    tf32: bool = False,
    half: bool = False,
    checkpointing: bool = False,
    parts: int = 1,
    tune: Any = "all",
    memory_format: torch.memory_format = torch.contiguous_format,
    compiled: Any = "",
) -> dict[str, Any]:
    allow_tf32(tf32)
    batch = batch or options.batch
    backbone, image, text = build(
        options.size, Variant("", memory_format=memory_format, compiled=compiled), options.device
    )
    size = tuple(image.shape[-2:])
    model = TADPForSemanticSegmentation(backbone, class_names=[f"class {k}" for k in range(150)], tune=tune)
    model.to(options.device).train()
    backbone.vae.to("cpu")
    if checkpointing:
        model.backbone.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-5))
    share = batch // parts
    latents = torch.randn(share, 4, size[0] // 8, size[1] // 8, device=options.device)
    masks, texts = torch.randint(150, (share, *size), device=options.device), text.take([0] * share)

    def step() -> None:
        for _ in range(parts):
            with torch.autocast(latents.device.type, HALF) if half else nullcontext():
                loss = model(None, texts, masks, latents=latents, image_size=size).loss
            (loss / parts).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run(step, options) | {"batch": batch}


if __name__ == "__main__":
    main()
