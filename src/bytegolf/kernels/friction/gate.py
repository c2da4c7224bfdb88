"""What an edge of friction attention weighs, given by how far its score exceeds its friction.

An edge with x = score − friction carries η = max(x, 0). Its fidelity μ = η / (1 + ηⁿ)^(1/n) rises from 0 with
slope 1 and ends below 1 (C. Janke, "Fidelity derivation", 2025; n = 1.25 in the published model). Edges with
x ≤ 0 weigh exactly 0 in every form, and nothing passes through them in either direction.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError

#: What an edge weighs: "mu", μ itself; "eta_mu", η μ, smooth where edges begin; "log_domain",
#: (1 + e^(−n x))^(−1/n), μ of η = eˣ, which begins at 2^(−1/n) as soon as a signal is above its friction.
Form = Literal["mu", "eta_mu", "log_domain"]


@dataclass(frozen=True)
class Rule:
    """The weights of edges, and how much a query may take in all.

    exponent: n. capacity: where the weights of a query's edges add up to more, all are scaled down so that
    they add up to it; None for no bound.
    """

    form: Form = "eta_mu"
    exponent: float = 1.25
    capacity: float | None = None

    def __post_init__(self) -> None:
        if self.exponent <= 0:
            raise RecipeError(f"exponent={self.exponent}; give a positive number, 1.25 as published")
        if self.capacity is not None and self.capacity <= 0:
            raise RecipeError(f"capacity={self.capacity}; give a positive number such as 4, or None")

    def weights(self, x: Tensor) -> Tensor:
        """w(x), elementwise in x's precision, with the slope below as its gradient."""
        y = _Weights.apply(x, self.form, self.exponent)
        assert isinstance(y, Tensor)
        return y


def fidelity(eta: Tensor, exponent: float) -> Tensor:
    """μ = η / (1 + ηⁿ)^(1/n), elementwise, for η ≥ 0 of any size.

    As min(η, 1) (1 + ρⁿ)^(−1/n) with ρ = min(η, 1/η), where no power overflows.
    """
    return eta.clamp(max=1.0) * (1.0 + _ratio(eta) ** exponent) ** (-1.0 / exponent)


def fidelity_slope(eta: Tensor, exponent: float) -> Tensor:
    """dμ/dη = (μ/η)^(n+1) = (1 + ηⁿ)^(−1−1/n), 1 at 0."""
    rho = _ratio(eta)
    below = torch.where(eta > 1.0, rho, torch.ones_like(rho))
    return (below * (1.0 + rho**exponent) ** (-1.0 / exponent)) ** (exponent + 1.0)


def _ratio(eta: Tensor) -> Tensor:
    return torch.where(eta > 1.0, 1.0 / eta.clamp(min=1.0), eta)


def plain_weights(x: Tensor, form: Form, exponent: float) -> Tensor:
    """w(x), elementwise."""
    eta = torch.where(x > 0, x, 0.0)
    if form == "log_domain":
        # No score below its friction is exponentiated: there x may be −∞.
        return torch.where(x > 0, (1.0 + (-exponent * eta).exp()) ** (-1.0 / exponent), 0.0)
    mu = fidelity(eta, exponent)
    return mu if form == "mu" else eta * mu


def plain_slopes(x: Tensor, form: Form, exponent: float) -> Tensor:
    """dw/dx, elementwise; 0 for x ≤ 0. The jump of "log_domain" at 0 has none."""
    eta = torch.where(x > 0, x, 0.0)
    if form == "log_domain":
        decay = (-exponent * eta).exp()
        slope = decay * (1.0 + decay) ** (-1.0 / exponent - 1.0)
    else:
        slope = fidelity_slope(eta, exponent)
        if form == "eta_mu":
            slope = fidelity(eta, exponent) + eta * slope
    return torch.where(x > 0, slope, 0.0)


class _Weights(torch.autograd.Function):
    """`plain_weights` and `plain_slopes`, keeping x alone in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Form, exponent: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.form, ctx.exponent = form, exponent
        return plain_weights(x, form, exponent)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return gradients[0] * plain_slopes(x, ctx.form, ctx.exponent), None, None
