"""A head that is small enough to show the value of the features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from localisation import BATCH
from torch import Tensor, nn

from tadp.datasets.scenes import CLASSES, Scene


class SmallHead(nn.Module):
    """Projects each level to 64 channels, sums them at the finest level, and applies one 3x3 convolution."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.predict = nn.Sequential(
            nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, len(CLASSES) + 1, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits at the finest level, (B, 13, h, w)."""
        size = maps[0].shape[2:]
        levels = [lateral(norm(level)) for norm, lateral, level in zip(self.norms, self.lateral, maps, strict=True)]
        resized = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
        return self.predict(sum(resized))


def train_head(
    seen: list[Tensor], train: Sequence[Scene], unseen: list[Tensor], test: Sequence[Scene], seed: int, epochs: int
) -> float:
    """Train a head and return its mean IoU over background and 12 classes, in per cent, at the image's resolution."""
    torch.manual_seed(seed)
    head = SmallHead([level.shape[1] for level in seen])
    steps = epochs * len(train) // 25
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    masks = torch.from_numpy(np.stack([scene.mask for scene in train])).long()
    stride = masks.shape[-1] // seen[0].shape[-1]
    cells = masks[:, stride // 4 :: stride // 2, stride // 4 :: stride // 2]  # every second pixel of a cell
    for step in range(steps):
        picked = torch.randint(len(train), (25,), generator=torch.Generator().manual_seed(seed * 100_003 + step))
        logits = F.interpolate(
            head([level[picked] for level in seen]), size=cells.shape[1:], mode="bilinear", align_corners=False
        )
        optimizer.zero_grad()
        F.cross_entropy(logits, cells[picked]).backward()
        optimizer.step()
        schedule.step()
    head.eval()
    confusion = torch.zeros(len(CLASSES) + 1, len(CLASSES) + 1)
    with torch.inference_mode():
        for start in range(0, len(test), BATCH):
            truth = torch.from_numpy(np.stack([scene.mask for scene in test[start : start + BATCH]])).long()
            logits = F.interpolate(
                head([level[start : start + BATCH] for level in unseen]),
                size=truth.shape[1:],
                mode="bilinear",
                align_corners=False,
            )
            pairs = truth.flatten() * len(confusion) + logits.argmax(dim=1).flatten()
            confusion += torch.bincount(pairs, minlength=confusion.numel()).view_as(confusion)
    overlap = confusion.diag()
    return float(100 * (overlap / (confusion.sum(0) + confusion.sum(1) - overlap)).mean())
