"""Constrained injection: what enters another pass of a loop is drawn back to the embedded input.

Shapes: B rows, T tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.roles import Component, Role


@dataclass(frozen=True)
class Parcae:
    """x ← Ā x + B̄ x₀ wherever a loop begins again (Parcae, arXiv 2604.12946; 16 MB challenge: #1674, #1728).

    Δ = softplus(step), Ā = exp(−Δ exp(log_decay)) lies between 0 and 1, so passes cannot blow up the
    residual stream; B̄ = Δ gain. All three are learned per channel and start at these values: Ā at 0.451 and
    B̄ at 0.131, which is no identity. truncate: at so many of the first re-entries no gradient passes through
    x into the passes before; it still does through skips, x₀ and later re-entries.
    """

    log_decay: float = -0.5
    step: float = 1.0
    gain: float = 0.1
    truncate: int = 0

    def __post_init__(self) -> None:
        if self.truncate < 0:
            raise RecipeError(f"injection.truncate={self.truncate}; give a number of re-entries, 0 for none")

    def build(self, width: int) -> "ParcaeLayer":
        return ParcaeLayer(self, width)


class ParcaeLayer(Component):
    def __init__(self, spec: Parcae, width: int) -> None:
        super().__init__()
        self.truncate = spec.truncate
        self.log_decay_D = self.parameter("log_decay_D", torch.full((width,), spec.log_decay), Role.SCALAR)
        self.step_D = self.parameter("step_D", torch.full((width,), spec.step), Role.SCALAR)
        self.gain_D = self.parameter("gain_D", torch.full((width,), spec.gain), Role.SCALAR)

    def forward(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        step_D = torch.nn.functional.softplus(self.step_D)
        kept_D = torch.exp(-step_D * torch.exp(self.log_decay_D)).to(x_BTD.dtype)
        injected_D = (step_D * self.gain_D).to(x_BTD.dtype)
        return kept_D * x_BTD + injected_D * x0_BTD

    def reentered(self, x_BTD: Tensor, x0_BTD: Tensor, turn: int) -> Tensor:
        """What enters the loop's first layer when it has run `turn` ≥ 1 times before."""
        return self(x_BTD.detach() if turn <= self.truncate else x_BTD, x0_BTD)
