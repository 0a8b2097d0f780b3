"""Is a diffusion backbone better for a task than another backbone, and do both together help? One table.

    python examples/compare_backbones.py
    python examples/compare_backbones.py --timm vit_small_patch16_dinov3.lvd1689m --pretrained

Trains the same head on the frozen maps of tadp, of a timm model, and of both joined by `tadp.backbone.Fused`, and
measures the mIoU on held-out images. Without `--pretrained`, the timm model has random weights. The images are rendered
scenes; for your own, change `read`. Prints and writes a Markdown page.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

import tadp
from tadp.backbone import Fused, TimmMaps
from tadp.datasets import Batch, RenderedScenes, collate
from tadp.features import FeatureInfo
from tadp.heads import LinearHead, SegmentationHead
from tadp.metrics import MeanIoU

TRAIN_SEED, HELD_OUT_SEED = 111, 112  # data sets of different seeds share no scene
BATCH = 8
Sources = dict[str, tadp.TADPBackbone | TimmMaps]


def read(count: int, *, seed: int, size: int) -> Batch:
    """The images of one split, with captions and masks. Change this function to compare on your own images."""
    return collate(RenderedScenes(count, seed=seed, size=size)[:])


def create(name: str, *, pretrained: bool) -> nn.Module:
    """Create a timm model that returns maps: the last block of a vision transformer, or every stride of others."""
    torch.manual_seed(0)
    options = {"features_only": True, "pretrained": pretrained}
    try:
        return timm.create_model(name, **options, dynamic_img_size=True, out_indices=[-1])
    except TypeError:  # other networks have no such option
        return timm.create_model(name, **options)


@torch.inference_mode()
def compute(source: tadp.TADPBackbone | TimmMaps, batch: Batch, device: str) -> list[torch.Tensor]:
    """The maps of all images, one tensor per level."""
    parts = []
    for start in range(0, len(batch.images), BATCH):
        images = batch.images[start : start + BATCH].to(device)
        if isinstance(source, TimmMaps):
            parts.append(source(images).maps)
        else:
            parts.append(source(images, batch.captions[start : start + BATCH]).maps)
    return [torch.cat(level).cpu() for level in zip(*parts, strict=True)]


def train(
    info: FeatureInfo, maps: list[torch.Tensor], masks: torch.Tensor, *, classes: int, seed: int, options
) -> nn.Module:
    """Train a head on maps that were computed before."""
    torch.manual_seed(seed)
    if options.head == "linear":
        head, lr = LinearHead(info, num_classes=classes), 1e-2
    else:
        head, lr = SegmentationHead(info, num_classes=classes, fpn_channels=64, channels=64), 2e-3
    optimizer, size = torch.optim.AdamW(head.to(options.device).parameters(), lr=lr), tuple(masks.shape[1:])
    for _ in range(options.steps):
        chosen = torch.randint(len(masks), (BATCH,))
        logits = head([level[chosen].to(options.device) for level in maps], image_size=size)
        loss = F.cross_entropy(logits, masks[chosen].to(options.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@torch.inference_mode()
def miou(head: nn.Module, maps: list[torch.Tensor], masks: torch.Tensor, *, names: list[str], device: str) -> float:
    metric = MeanIoU(names)
    for start in range(0, len(masks), BATCH):
        part = slice(start, start + BATCH)
        logits = head([level[part].to(device) for level in maps], image_size=tuple(masks.shape[1:]))
        metric.update(logits.argmax(dim=1).cpu(), masks[part])
    return metric.compute().miou


def table(sources: Sources, options: argparse.Namespace) -> list[str]:
    """Train and measure a head on each source; one row per source."""
    names = list(RenderedScenes(1, seed=0).class_names)
    splits = [
        read(count, seed=seed, size=options.size)
        for count, seed in ((options.scenes, TRAIN_SEED), (options.held_out, HELD_OUT_SEED))
    ]
    rows = ["| maps | channels at each stride | mIoU | ms per image |", "|---|---|---|---|"]
    for name, source in sources.items():
        source.to(options.device).eval()
        info, start = source.feature_info, time.perf_counter()
        maps = [compute(source, batch, options.device) for batch in splits]
        milliseconds = (time.perf_counter() - start) * 1000 / (options.scenes + options.held_out)
        scores = []
        for seed in range(options.seeds):
            head = train(info, maps[0], splits[0].masks, classes=len(names), seed=seed, options=options)
            scores.append(miou(head, maps[1], splits[1].masks, names=names, device=options.device))
        shapes = ", ".join(f"{width} at {stride}" for width, stride in zip(info.channels, info.reduction, strict=True))
        rows.append(f"| {name} | {shapes} | {np.mean(scores):.3f} ± {np.std(scores):.3f} | {milliseconds:.0f} |")
    return rows


def markdown(rows: list[str], options: argparse.Namespace) -> str:
    flags = (f"--{name} {getattr(options, name)}" for name in ("model", "timm", "head", "size", "steps", "seeds"))
    weights = f"{'pretrained' if options.pretrained else 'random'} weights"
    lines = [
        "# Is a diffusion backbone better than another one, and do both together help?",
        "",
        f"The same {options.head} head was trained on the frozen maps of tadp (`{options.model}`), of a timm model "
        f"(`{options.timm}`, {weights}), and of both [joined](../fused.md). {options.scenes} [rendered "
        f"scenes](../concepts.md#glossary) for training, {options.held_out} others for testing; mIoU from 0 to 1, mean "
        "± standard deviation over seeds of the head. The time is that of the maps.",
        "",
        f"Command: `python examples/compare_backbones.py {' '.join(flags)}{' --pretrained' * options.pretrained}`; "
        f"{options.device}, {platform.machine()}, torch {torch.__version__}, timm {timm.__version__}.",
        "",
    ]
    if not options.pretrained:
        lines += [
            "**This table does not say which backbone is better**, because the timm model has random weights, while "
            "tadp-tiny was trained on such scenes and the masks of these classes. It shows that the comparison runs. "
            "With `--pretrained`, photographs and a base model of full size, the same command answers the question.",
            "",
        ]
    return "\n".join([*lines, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--timm", default="vit_small_patch14_dinov2.lvd142m", help="timm model (default: %(default)s)")
    parser.add_argument("--pretrained", action="store_true", help="download the timm model's weights")
    parser.add_argument("--head", choices=("linear", "fpn"), default="linear", help="the head (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=100, help="scenes for training (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=50, help="scenes for testing (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=80, help="training steps (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="such as cuda")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/compare-backbones.md"), help="page (default: %(default)s)"
    )
    options = parser.parse_args()
    second = create(options.timm, pretrained=options.pretrained)
    backbone = tadp.TADPBackbone.from_pretrained(options.model)
    sources: Sources = {"tadp": backbone, "timm": TimmMaps(second), "both": Fused(backbone, second)}
    page = markdown(table(sources, options), options)
    print(page, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
