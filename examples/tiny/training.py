"""Code that the training scripts share: a schedule, an average of weights, and checkpoints that survive a kill."""

import math
from pathlib import Path
from typing import Protocol

import torch


class Stateful(Protocol):
    """An object with a state_dict."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state_dict: dict) -> object: ...


def autocast() -> torch.autocast:
    """Compute in bfloat16, if the processor has instructions for it. Without them, float32 is faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def cosine_lr(step: int, steps: int, *, peak: float, warmup: int = 200, floor: float = 0.02) -> float:
    """The learning rate after a linear warm-up and a cosine decay to `floor` times the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Average:
    """An exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999):
        self.module, self.decay = module, decay
        self.shadow = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the module's weights, faster at first, so that the initial weights are forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - decay)
            else:
                self.shadow[name].copy_(value)

    def state_dict(self) -> dict:
        return self.shadow

    def load_state_dict(self, state_dict: dict) -> None:
        self.shadow = state_dict


def save_checkpoint(path: Path, step: int, parts: dict[str, Stateful]) -> None:
    """Write all parts at once. If the process is killed meanwhile, the previous checkpoint stays intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save({"step": step, "parts": {name: part.state_dict() for name, part in parts.items()}}, partial)
    partial.replace(path)


def load_checkpoint(path: Path, parts: dict[str, Stateful]) -> int:
    """Load the parts and return the number of finished steps, 0 without a checkpoint."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state["step"]
