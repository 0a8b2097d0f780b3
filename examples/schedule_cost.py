"""What the paper's schedules cost: arithmetic and memory, counted without running them.

    python examples/schedule_cost.py --out docs/results/schedule-cost.md

The models have the size of Stable Diffusion 1.5, without weights. FlopCounterMode counts the arithmetic on PyTorch's
meta device. Memory consists of weights, gradients and AdamW's two averages, plus what autograd keeps for the backward
pass, counted with fake tensors. Their attention is the fused kernel, while meta tensors would keep all probabilities.
"""

import argparse
import tomllib
from pathlib import Path

import torch
from benchmarking.variants import SD15_UNET, SD15_VAE
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tadp import Conditioning, TADPBackbone, heads
from tadp.diffusion.vae import VAEEncoder
from tadp.training.schedules import SCHEDULES

TEXT_ENCODER_PARAMETERS = 123_060_480  # CLIP ViT-L/14's text model, which Stable Diffusion 1.x has
SIDE = 512  # size of the U-Net's input; NYU's crops of 480 are padded to it
# Training images, according to the papers and lists of the data sets. The paper's detector trains on VOC 2007 and 2012.
IMAGES = {"ade20k": 20_210, "nyu": 24_231, "pascal": 10_582, "cityscapes": 2_975, "voc": 16_551}
PASCAL = "segmentation, Pascal VOC"  # it has a head of its own
TASKS = {"nyu": "depth", "voc": "detection", "pascal": PASCAL}  # the others are segmentation
GB, TERA = 1e9, 1e12
HOUR_AT = 100 * TERA * 3600  # FLOP in an hour at 100 TFLOP/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    steps = {task: training_step(task) for task in ("segmentation", PASCAL, "depth", "detection")}
    print(report := page(steps))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(report)


def training_step(task: str) -> dict[str, float]:
    """FLOP per image, parameters, and the bytes that autograd keeps per image."""
    with torch.device("meta"):
        backbone = TADPBackbone(
            vae=VAEEncoder(AutoencoderKL(**SD15_VAE)),
            unet=UNet2DConditionModel(**SD15_UNET),
            text_length=77,
            attach_attention=() if task == "depth" else (1, 2),
        ).train()
        head = build_head(task, backbone).train()
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        backbone.vae(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    with FlopCounterMode(display=False) as training:
        forward(backbone, head, task).backward()
    with FlopCounterMode(display=False) as once, torch.no_grad():
        forward(backbone, head, task)
    trained = [p for module in (backbone.unet, head) for p in module.parameters() if p.requires_grad]
    total = sum(p.numel() for module in (backbone, head) for p in module.parameters())
    modes = {"encode": encoding, "forward": once, "train": training}
    figures: dict[str, float] = {name: mode.get_total_flops() for name, mode in modes.items()} | {
        "trained": (learned := sum(p.numel() for p in trained)),
        "frozen": total - learned + TEXT_ENCODER_PARAMETERS,
    }
    with FakeTensorMode(allow_non_fake_inputs=True):  # meta tensors become fake ones
        backbone.to_empty(device="cpu"), head.to_empty(device="cpu")
        figures["kept"] = kept_bytes(backbone, head, task)
        backbone.enable_gradient_checkpointing()
        return figures | {"kept, checkpointed": kept_bytes(backbone, head, task)}


def forward(backbone: TADPBackbone, head: nn.Module, task: str) -> Tensor:
    """A pass from latents to a scalar with a gradient."""
    device = next(head.parameters()).device
    latents, text = torch.empty(1, 4, SIDE // 8, SIDE // 8, device=device), torch.empty(1, 77, 768, device=device)
    features = backbone.extract(latents, Conditioning(text))
    outputs = head(features.maps if task == "detection" else features)
    return sum(output.sum() for output in outputs) if isinstance(outputs, list | tuple) else outputs.sum()


def build_head(task: str, backbone: TADPBackbone) -> nn.Module:
    if task == "depth":
        return heads.DepthHead(backbone.feature_info, max_depth_m=10.0)
    if task == "detection":  # boxes depend on values, which are missing here; the pyramid does not need them
        return heads.FPN(backbone.feature_info)
    if task == PASCAL:
        return heads.SMPSegmentationHead(backbone.feature_info, num_classes=21)
    return heads.SegmentationHead(backbone.feature_info, num_classes=150)


def kept_bytes(backbone: TADPBackbone, head: nn.Module, task: str) -> int:
    """Bytes that autograd keeps from forward to backward, each storage once, without parameters and views of them."""
    parameters = {weight.untyped_storage()._cdata for module in (backbone, head) for weight in module.parameters()}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage  # kept alive, so that no other storage reuses its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward(backbone, head, task)
    del result
    return sum(storage.nbytes() for storage in storages.values())


def page(steps: dict[str, dict[str, float]]) -> str:
    texts = tomllib.loads((Path(__file__).parent / "openings.toml").read_text(encoding="utf-8"))
    lines = [
        f"# What the paper's schedules cost\n{texts['schedule-cost']}",
        f"Command: `python examples/schedule_cost.py`\n\n## One image\n{texts['schedule-cost-image']}",
        "| task | VAE encoder, TFLOP | U-Net and head, forward, TFLOP | U-Net and head, forward and backward, TFLOP | "
        "kept, GB | kept with gradient checkpointing, GB |",
        "|---|---|---|---|---|---|",
    ]
    for task, cost in steps.items():
        flop = " | ".join(f"{cost[name] / TERA:.2f}" for name in ("encode", "forward", "train"))
        lines.append(f"| {task} | {flop} | {cost['kept'] / GB:.1f} | {cost['kept, checkpointed'] / GB:.2f} |")
    model = steps["segmentation"]
    state = 16 * model["trained"] + 4 * model["frozen"]
    lines += [
        "",
        f"The model itself takes memory, too: for segmentation, {model['trained'] / 1e6:.0f} M parameters are trained "
        f"and {model['frozen'] / 1e6:.0f} M are frozen. Weights, gradients and AdamW's two averages take "
        f"{state / GB:.1f} GB in float32. With gradient checkpointing, a step does one more forward pass and needs the "
        "memory of one block in addition to what is kept.",
        "",
        f"## A whole schedule\n{texts['schedule-cost-schedules']}",
        "| schedule | images seen | PFLOP | hours at 100 TFLOP/s | hours with stored latents |",
        "|---|---|---|---|---|",
    ]
    for name, schedule in SCHEDULES.items():
        data = name.split("-")[0]
        cost = steps[TASKS.get(data, "segmentation")]
        seen = schedule.total_steps(IMAGES[data]) * schedule.batch
        total, cached = seen * (cost["encode"] + cost["train"]), seen * cost["train"]
        lines.append(f"| {name} | {seen:,} | {total / 1e15:,.0f} | {total / HOUR_AT:.1f} | {cached / HOUR_AT:.1f} |")
    links = "See also [the speed of a GPU](../speed.md#on-a-gpu) and [the memory of a step](../small-gpu.md#measured)."
    return "\n".join([*lines, "", links]) + "\n"


if __name__ == "__main__":
    main()
