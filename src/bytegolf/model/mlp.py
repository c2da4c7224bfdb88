"""Channel mixers: matrices around an activation.

Shapes: B rows, T tokens, D width, M hidden channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.activated_projection import (
    leaky_square,
    quadratic,
    quadratic_projection,
    squared_projection,
)
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
        if self.up.adapter is None:
            self.up.observe(x_BTD)
            h_BTM = squared_projection(x_BTD, self.up.used_weight(), self.slope)
        else:
            h_BTM = leaky_square(self.up(x_BTD), self.slope)
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


@dataclass(frozen=True)
class XieluMlp:
    """W_down f(W_up x) with f(h) = h (a h + b), one pair (a, b) for h > 0 and one for the rest.

    The quadratic form of xIELU (Huang & Schlag 2024, arXiv 2411.13010) of the 16 MB challenge's entries #1586
    and #1728: nothing is squared after it, and its derivative is 2 a h + b. a is `square_above` and
    `square_below`, b `slope_above` and `slope_below`; by default about the means of `PUBLISHED_XIELU`.
    learned: the four are where a layer's own scalars start; otherwise they stay.
    norm_output: the hidden channels are normalized before W_down.
    """

    hidden: int
    square_above: float = 1.1
    slope_above: float = 0.1
    square_below: float = 0.7
    slope_below: float = 0.4
    learned: bool = False
    norm_output: bool = False

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)
        for name in ("square_above", "slope_above", "square_below", "slope_below"):
            if not math.isfinite(getattr(self, name)):
                raise RecipeError(f"{name}={getattr(self, name)}; give a number, such as 0.5")

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """a and b above zero, a and b below."""
        return self.square_above, self.slope_above, self.square_below, self.slope_below

    def build(self, width: int) -> "XieluMlpLayer":
        return XieluMlpLayer(self, width)


#: `XieluMlp.coefficients` of layers 0 to 10 in entry #1728, trained once and then fixed.
PUBLISHED_XIELU = (
    (0.103, 0.126, 0.390, 0.785),
    (0.196, 0.070, 0.578, 0.638),
    (1.415, 0.000, 0.363, 0.405),
    (1.196, 0.000, 0.491, 0.377),
    (1.485, 0.000, 0.536, 0.314),
    (1.546, 0.002, 0.548, 0.289),
    (1.337, 0.017, 0.579, 0.313),
    (1.727, 0.067, 0.983, 0.571),
    (1.495, 0.005, 1.058, 0.420),
    (0.988, 0.058, 0.935, 0.286),
    (0.917, 0.568, 0.845, 0.520),
)


def published_xielu(layer: int, hidden: int, *, learned: bool = False) -> XieluMlp:
    """The MLP of a layer, counted from 0, with entry #1728's coefficients, those of layer 10 above it."""
    return XieluMlp(hidden, *PUBLISHED_XIELU[min(layer, len(PUBLISHED_XIELU) - 1)], learned=learned)


class XieluMlpLayer(Component):
    coefficients_4: Tensor

    def __init__(self, spec: XieluMlp, width: int) -> None:
        super().__init__()
        self.norm_output = spec.norm_output
        self.up = Linear(width, spec.hidden, Role.MLP_UP)
        self.down = ResidualLinear(spec.hidden, width, Role.MLP_DOWN)
        # A tensor even where it is fixed: numbers would give each layer compiled code of its own.
        start_4 = torch.tensor(spec.coefficients)
        if spec.learned:
            self.parameter("coefficients_4", start_4, Role.SCALAR)
        else:
            self.register_buffer("coefficients_4", start_4, persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.up.adapter is None:
            self.up.observe(x_BTD)
            h_BTM = quadratic_projection(x_BTD, self.up.used_weight(), self.coefficients_4)
        else:
            h_BTM = quadratic(self.up(x_BTD), self.coefficients_4)
        return self.down(rms_norm(h_BTM) if self.norm_output else h_BTM)


Mlp = SquaredMlp | SwiGlu | XieluMlp
