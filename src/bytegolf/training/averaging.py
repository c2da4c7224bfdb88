"""Exponential moving average of the weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class Average:
    """decay: share of the average kept at each step, 0 ≤ decay < 1."""

    decay: float = 0.997

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise RecipeError(f"average.decay={self.decay}; 0 ≤ decay < 1 is needed")


class MovingAverage:
    """e ← β e + (1 − β) w from e = 0; the average is e / (1 − βⁿ) after n steps.

    The division (Kingma & Ba 2015) removes the pull towards the start, so short runs are averaged over
    the weights they really had.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._parameters = dict(model.named_parameters())
        self._sums = {name: torch.zeros_like(value) for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the current weights."""
        self.steps += 1
        values = [value.detach() for value in self._parameters.values()]
        torch._foreach_lerp_(list(self._sums.values()), values, 1.0 - self.decay)

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights by name; at least one update is needed."""
        assert self.steps, "an average of no steps"
        correction = 1.0 - self.decay**self.steps
        return {name: value / correction for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in self._sums.items():
            value.copy_(state["sums"][name])
