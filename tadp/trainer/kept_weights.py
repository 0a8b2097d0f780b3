"""Weights that a run keeps besides the current ones: their moving average, and those with the best score."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tadp.trainer.checkpoints import set_state, trained_state


class WeightAverage:
    """An exponential moving average of the tensors that training changes.

    Args:
        model: The task model.
        decay: Weight of the earlier average in each step, below 1. In the first steps it is lower, (1 + n) / (10 + n)
            in step n, so that the average does not stay near the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.tensors = _copies(trained_state(model))

    def update(self, model: nn.Module) -> None:
        """Add the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in trained_state(model).items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights for a while."""
        current = _copies(trained_state(model))
        set_state(model, self.tensors)
        try:
            yield
        finally:
            set_state(model, current)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a checkpoint."""
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the average of a checkpoint."""
        self.steps = state["steps"]
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])


@dataclass(frozen=True)
class Watch:
    """The score by which a run stops early.

    Attributes:
        figure: Name of the figure that is compared.
        higher_is_better: Whether a higher figure is better.
        patience: Number of evaluations in a row without a better figure after which the run stops.
    """

    figure: str
    higher_is_better: bool
    patience: int


class BestWeights:
    """The weights of the evaluation with the best score so far.

    Args:
        watch: The score.

    Attributes:
        step: The step of these weights; None before the first evaluation.
        tensors: The weights; empty before the first evaluation.
    """

    def __init__(self, watch: Watch):
        self.watch = watch
        self.value, self.misses = math.nan, 0
        self.step: int | None = None
        self.tensors: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the run has to stop."""
        return self.misses >= self.watch.patience

    def update(self, step: int, figures: Mapping[str, float], model: nn.Module) -> None:
        """Compare the figures of an evaluation, and keep the weights if they are the best."""
        value = figures[self.watch.figure]
        is_better = value > self.value if self.watch.higher_is_better else value < self.value
        if self.step is not None and not (is_better or (math.isnan(self.value) and not math.isnan(value))):
            self.misses += 1
            return
        self.value, self.step, self.misses = value, step, 0
        self.tensors = _copies(trained_state(model))

    def state_dict(self) -> dict[str, Any]:
        """The best weights, for a checkpoint."""
        return {"value": self.value, "misses": self.misses, "step": self.step, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best weights of a checkpoint."""
        self.value, self.misses, self.step = state["value"], state["misses"], state["step"]
        self.tensors = state["tensors"]


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in state.items()}
