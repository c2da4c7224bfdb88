"""Channel mixers: matrices around an activation.

Shapes: B rows, T tokens, D width, M hidden channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.linear import Linear, ResidualLinear
from bytegolf.model.roles import Component, Role


def _check_hidden(hidden: int) -> None:
    if hidden < 1:
        raise RecipeError(
            f"hidden={hidden}; give the number of hidden channels, for example 2 to 4 times the width"
        )


@dataclass(frozen=True)
class SquaredMlp:
    """W_down f(W_up x) with f(h) = h² for h > 0 and (slope·h)² below (So et al. 2021 at slope 0).

    slope 0 is relu²; 0.5 is the leaky form, whose derivative is 2h above and 2·slope²·h below zero.
    norm_output: the hidden channels are normalized before W_down.
    """

    hidden: int
    slope: float = 0.0
    norm_output: bool = False

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)
        if not 0.0 <= self.slope <= 1.0:
            raise RecipeError(f"slope={self.slope} is outside 0..1")

    def build(self, width: int) -> "SquaredMlpLayer":
        return SquaredMlpLayer(self, width)


class SquaredMlpLayer(Component):
    def __init__(self, spec: SquaredMlp, width: int) -> None:
        super().__init__()
        self.slope, self.norm_output = spec.slope, spec.norm_output
        self.up = Linear(width, spec.hidden, Role.MLP_UP)
        self.down = ResidualLinear(spec.hidden, width, Role.MLP_DOWN)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTM = torch.nn.functional.leaky_relu(self.up(x_BTD), self.slope).square()
        return self.down(rms_norm(h_BTM) if self.norm_output else h_BTM)


@dataclass(frozen=True)
class SwiGlu:
    """W_down (silu(W_gate x) · W_up x) (Shazeer 2020): three matrices of `hidden` channels.

    norm_output: the hidden channels are normalized before W_down.
    """

    hidden: int
    norm_output: bool = False

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)

    def build(self, width: int) -> "SwiGluLayer":
        return SwiGluLayer(self, width)


class SwiGluLayer(Component):
    def __init__(self, spec: SwiGlu, width: int) -> None:
        super().__init__()
        self.norm_output = spec.norm_output
        self.gate = Linear(width, spec.hidden, Role.MLP_UP)
        self.up = Linear(width, spec.hidden, Role.MLP_UP)
        self.down = ResidualLinear(spec.hidden, width, Role.MLP_DOWN)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTM = torch.nn.functional.silu(self.gate(x_BTD)) * self.up(x_BTD)
        return self.down(rms_norm(h_BTM) if self.norm_output else h_BTM)


Mlp = SquaredMlp | SwiGlu
