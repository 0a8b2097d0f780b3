"""Compare ways to get a map at stride 4 by the mIoU of a head on frozen features of rendered scenes.

    python examples/stride4.py

"none" starts at stride 8, "vae" adds a map of the VAE encoder, and "upsampled" adds a learned upsampling of level 0.
Prints one line per run, and the mean over seeds.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

import tadp
from tadp.datasets import RenderedScenes, collate
from tadp.heads import SegmentationHead
from tadp.integrations import Pyramid
from tadp.metrics import MeanIoU

TRAIN_SEED, HELD_OUT_SEED = 101, 102  # data sets of different seeds share no scene


def miou(kind: str, *, seed: int, options: argparse.Namespace) -> float:
    torch.manual_seed(seed)
    backbone = tadp.TADPBackbone.from_pretrained(options.model, default_text=None).freeze()
    pyramid = Pyramid(backbone, stride4=None if kind == "none" else kind)
    train = RenderedScenes(options.scenes, seed=TRAIN_SEED)
    head = SegmentationHead(pyramid.feature_info, num_classes=len(train.class_names), fpn_channels=64, channels=64)
    trained = [*head.parameters(), *(pyramid.upsampler.parameters() if pyramid.upsampler else ())]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        batch = collate([train[k] for k in torch.randint(len(train), (options.batch,), generator=generator).tolist()])
        with pyramid.backbone.conditioning(batch.captions):
            loss = F.cross_entropy(head(pyramid(batch.images)), batch.masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metric = MeanIoU(train.class_names)
    head.eval()
    held_out = RenderedScenes(options.held_out, seed=HELD_OUT_SEED)
    for start in range(0, len(held_out), options.batch):
        batch = collate(held_out[start : start + options.batch])
        with torch.no_grad(), pyramid.backbone.conditioning(batch.captions):
            metric.update(head(pyramid(batch.images)).argmax(dim=1), batch.masks)
    return metric.compute().miou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=400, help="scenes for training (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=100, help="scenes for testing (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    options = parser.parse_args()
    for kind in ("none", "vae", "upsampled"):
        scores = []
        for seed in range(options.seeds):
            scores.append(miou(kind, seed=seed, options=options))
            print(f"{kind}, seed {seed}: mIoU {scores[-1]:.3f}", flush=True)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        print(f"{kind}: {statistics.mean(scores):.3f} ± {spread:.3f}", flush=True)


if __name__ == "__main__":
    main()
