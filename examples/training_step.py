"""What does a training step cost, and which choices make it faster or smaller?

    python examples/training_step.py --size fifth --rounds 3 --out docs/results/training-step   # some minutes on a CPU
    python examples/training_step.py --size sd15 --device cuda --batch 8                        # on a GPU
    python examples/training_step.py --size tiny --rounds 1                                     # to check that it runs

Weights are random, because neither time nor memory depends on them. A step consists of forward, backward and AdamW of
TADPForSemanticSegmentation with 150 classes, from stored latents and text on. The second table has forward and backward
of only the U-Net, next to diffusers with hooks, which return the same maps but no attention. Each row runs in turn with
the row that it is compared with, each in its own process, so that a change in the machine's speed affects both.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarking.in_turn import compare
from benchmarking.step_page import FULL, HOOKS, page
from benchmarking.variants import STEP_SIZES
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tadp import Conditioning, TADPBackbone, TADPForSemanticSegmentation

STEPS: dict[str, dict[str, Any]] = {
    FULL: {},
    "U-Net trained, fused AdamW": {"fused": True},
    "U-Net trained, fused AdamW, channels_last": {"fused": True, "last": True},
    "U-Net trained, fused AdamW, gradient checkpointing": {"fused": True, "checkpointing": True},
    "U-Net trained, fused AdamW, selective checkpointing": {"fused": True, "selective": True},
    "U-Net trained, fused AdamW, bfloat16": {"fused": True, "half": True},
    "LoRA of rank 16, fused AdamW": {"fused": True, "tune": "lora"},
    "LoRA of rank 16, fused AdamW, gradient checkpointing": {"fused": True, "tune": "lora", "checkpointing": True},
    "U-Net frozen, fused AdamW": {"fused": True, "tune": "nothing"},
    "U-Net frozen, fused AdamW, images encoded in every step": {"fused": True, "tune": "nothing", "images": True},
}
COMPILED: dict[str, dict[str, Any]] = {  # takes minutes to compile, so it only runs with --only
    "U-Net trained, fused AdamW, compiled": {"fused": True, "compiled": True}
}
PRODUCTS = (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
PASSES = {HOOKS: "hooks", "tadp, no attention": "maps", "tadp, attention attached at levels 1 and 2": "attention"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=STEP_SIZES, default="fifth", help="size of the models (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, after one for warming up (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="device to measure (default: %(default)s)")
    names = [*STEPS, *PASSES]
    parser.add_argument(
        "--only", choices=[*names, *COMPILED], action="append", help="run this row; repeat it for several"
    )
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    only, all_steps = options.only or names, STEPS | COMPILED
    steps = {name: compare(options, make_step, STEPS[FULL], own) for name, own in all_steps.items() if name in only}
    passes = {
        name: compare(options, make_pass, PASSES[HOOKS], kind, times=3) for name, kind in PASSES.items() if name in only
    }
    print(report := page(options, steps, passes))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(report)
        options.out.with_suffix(".json").write_text(json.dumps({"steps": steps, "passes": passes}, indent=2) + "\n")


def make_backbone(options: argparse.Namespace, **more: Any) -> tuple[TADPBackbone, Conditioning, torch.Tensor]:
    """A backbone with random weights, a text and latents."""
    unet, vae, side, _ = STEP_SIZES[options.size]
    torch.manual_seed(0)
    backbone = TADPBackbone(vae=AutoencoderKL(**vae), unet=UNet2DConditionModel(**unet), text_length=77, **more)
    backbone.to(options.device)
    text = Conditioning(torch.randn(options.batch, 77, unet["cross_attention_dim"], device=options.device))
    return backbone, text, torch.randn(options.batch, 4, side // 8, side // 8, device=options.device)


def make_step(options: argparse.Namespace, settings: dict[str, Any]) -> Callable[[], Any]:
    """A function that takes a training step."""
    side, channels = STEP_SIZES[options.size][2:]
    backbone, text, latents = make_backbone(options)
    names = [f"class {number}" for number in range(150)]
    head = {"fpn_channels": channels, "channels": channels, "norm": "group"}
    tune = settings.get("tune", "all")
    model = TADPForSemanticSegmentation(backbone, class_names=names, head_options=head, tune=tune).train()
    if settings.get("last"):
        model.to(memory_format=torch.channels_last)
    if settings.get("checkpointing"):
        backbone.enable_gradient_checkpointing()
    if settings.get("selective"):
        keep_products(backbone)
    if settings.get("compiled"):
        backbone.compile()
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-5), fused=settings.get("fused"))
    masks = torch.randint(150, (options.batch, side, side), device=options.device)
    images = torch.rand(options.batch, 3, side, side, device=options.device)
    inputs: dict[str, Any] = {"images": images} if settings.get("images") else {"images": None, "latents": latents}
    if not settings.get("images"):
        backbone.vae.to("meta")

    def step() -> None:
        with torch.autocast(latents.device.type, torch.bfloat16) if settings.get("half") else nullcontext():
            loss = model(text=text, masks=masks, **inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def keep_products(backbone: TADPBackbone) -> None:
    """Keep only results of convolutions and matrix products; backward computes what is cheap, such as norms, again."""
    saved = partial(create_selective_checkpoint_contexts, list(PRODUCTS))
    for part in backbone.unet.modules():
        if isinstance(part, backbone.family.repeated):
            part.forward = partial(checkpoint, part.forward, use_reentrant=False, context_fn=saved)


def make_pass(options: argparse.Namespace, kind: str) -> Callable[[], Any]:
    """A function that runs the U-Net forward and backward and returns nothing."""
    backbone, text, latents = make_backbone(options, **({} if kind == "attention" else {"attach_attention": ()}))
    unet: Any = backbone.unet
    if kind == "hooks":
        unet.requires_grad_(True).set_attn_processor(AttnProcessor2_0())
    blocks = unet.up_blocks
    tapped = [blocks[3].attentions[2], blocks[2].attentions[1], blocks[1].attentions[1], blocks[0].resnets[1]]

    def hooked() -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            maps.append(output if isinstance(output, torch.Tensor) else output[0])

        hooks = [layer.register_forward_hook(keep) for layer in tapped]
        unet(latents, 0, text.embeddings)
        for hook in hooks:
            hook.remove()
        return maps

    def run() -> None:
        maps = hooked() if kind == "hooks" else backbone.extract(latents, text).maps
        sum(level.square().mean() for level in maps).backward()  # type: ignore[union-attr]

    return run


if __name__ == "__main__":
    main()
