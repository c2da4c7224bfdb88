"""Averages of the weights over training: what is compressed in the end."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bytegolf.errors import RecipeError


class Averaging(Protocol):
    """A running average of a model's weights. steps: how many weights it has taken in."""

    steps: int

    def update(self, multiplier: float) -> None:
        """Sees the current weights, after a step at `multiplier` times the learning rates."""

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights by name; some must have been taken in."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Average:
    """Exponential moving average.

    decay: share of the average kept at each step, 0 ≤ decay < 1. corrected: as if the average had begun
    with the first step's weights; without, it begins with the start values, which fade away.
    """

    decay: float = 0.997
    corrected: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise RecipeError(f"average.decay={self.decay}; 0 ≤ decay < 1 is needed")

    def build(self, model: nn.Module) -> "MovingAverage":
        return MovingAverage(model, self.decay, corrected=self.corrected)


@dataclass(frozen=True)
class StochasticAverage:
    """Stochastic weight averaging (Izmailov et al. 2018): the plain mean of snapshots late in training.

    A snapshot is taken `every` so many steps, from when the falling learning rate first is less than
    `below` times its full value.
    """

    every: int = 50
    below: float = 0.4

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecipeError(f"average.every={self.every}; give 1 step or more")
        if not 0.0 < self.below <= 1.0:
            raise RecipeError(f"average.below={self.below}; 0 < below ≤ 1 is needed")

    def build(self, model: nn.Module) -> "SnapshotMean":
        return SnapshotMean(model, self)


#: What a recipe can choose.
WeightAverage = Average | StochasticAverage


class MovingAverage:
    """e ← β e + (1 − β) w.

    Corrected, from e = 0: the average is e / (1 − βⁿ) after n steps. The division (Kingma & Ba 2015)
    removes the pull towards the start, so short runs are averaged over the weights they really had.
    Otherwise from e = the start values, which keep the weight βⁿ: the custom of the 16 MB challenge.
    """

    def __init__(self, model: nn.Module, decay: float, *, corrected: bool = True) -> None:
        self.decay, self.corrected, self.steps = decay, corrected, 0
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._sums = {
            name: torch.zeros_like(value) if corrected else value.detach().clone()
            for name, value in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, multiplier: float = 1.0) -> None:
        """Takes in the current weights."""
        self.steps += 1
        torch._foreach_lerp_(list(self._sums.values()), list(self._parameters.values()), 1.0 - self.decay)

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights by name; at least one update is needed."""
        assert self.steps, "an average of no steps"
        correction = 1.0 - self.decay**self.steps if self.corrected else 1.0
        return {name: value / correction for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in self._sums.items():
            value.copy_(state["sums"][name])


class SnapshotMean:
    """Σ w / n over the n snapshots so far."""

    def __init__(self, model: nn.Module, spec: StochasticAverage) -> None:
        self.spec, self.steps = spec, 0
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._sums = {name: torch.zeros_like(value) for name, value in self._parameters.items()}
        # A rate that is low because it still rises does not count, so the one before must be known.
        self._last_multiplier = -math.inf
        self._steps_below: int | None = None

    @torch.no_grad()
    def update(self, multiplier: float) -> None:
        """Takes a snapshot if one is due."""
        if self._steps_below is not None:
            self._steps_below += 1
        elif multiplier < min(self.spec.below, self._last_multiplier):
            self._steps_below = 0
        self._last_multiplier = multiplier
        if self._steps_below is not None and self._steps_below % self.spec.every == 0:
            self.steps += 1
            torch._foreach_add_(list(self._sums.values()), list(self._parameters.values()))

    def averages(self) -> dict[str, Tensor]:
        """The mean of the snapshots by name; at least one is needed."""
        assert self.steps, "a mean of no snapshots"
        return {name: value / self.steps for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "sums": self._sums,
            "last_multiplier": self._last_multiplier,
            "steps_below": self._steps_below,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self._last_multiplier, self._steps_below = state["last_multiplier"], state["steps_below"]
        for name, value in self._sums.items():
            value.copy_(state["sums"][name])
