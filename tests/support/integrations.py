"""Shared by the tests of `tadp.integrations`: scenes, a few training steps, and stand-in packages."""

import sys
import types

import torch
import torch.nn.functional as F

from tadp.datasets import RenderedScenes, collate

CLASSES = 13
BATCH = collate(RenderedScenes(2, seed=1, size=64)[:])


def train(model, loss, *, steps: int = 3, lr: float = 3e-3) -> list[float]:
    """Train, and return the loss before each step and after the last."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    losses = []
    for _ in range(steps):
        value = loss()
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        return [*losses, loss().item()]


def pixel_loss(logits):
    return F.cross_entropy(F.interpolate(logits, BATCH.masks.shape[1:], mode="bilinear"), BATCH.masks)


def module(name):
    return __import__(f"tadp.integrations.{name}", fromlist=["_"])


def stand_in(monkeypatch, name, **names):
    package = types.ModuleType(name)
    vars(package).update(names)
    monkeypatch.setitem(sys.modules, name, package)
    return package
