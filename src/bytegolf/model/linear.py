"""The one matrix product that holds weights, with slots for the exported grid, adapters and observers."""

from collections.abc import Callable

import torch
from torch import Tensor

from bytegolf.model.roles import Component, Role

#: Adds a correction to the output: (input (..., in)) -> (..., out).
Adapter = Callable[[Tensor], Tensor]
#: Is shown what the weight is multiplied with: (input (..., in)).
Observer = Callable[[Tensor], None]


class Weight(Component):
    """A weight matrix that can be used through the values the exported grid would give it.

    `quantized`, where set, has the weight's shape and is what the forward pass uses; the gradient passes
    to the weight unchanged (straight-through, Bengio et al. 2013). Whoever sets it refreshes it after
    each update of the weight; so it costs once per step, and compiled code does not depend on the grid.
    """

    weight: torch.nn.Parameter
    quantized: Tensor | None

    def __init__(self, value: Tensor, role: Role) -> None:
        super().__init__()
        self.weight = self.parameter("weight", value, role)
        self.register_buffer("quantized", None, persistent=False)

    def used_weight(self) -> Tensor:
        """The values that the forward pass multiplies with."""
        if self.quantized is None:
            return self.weight
        # The bracket is exactly zero, so the sum is exactly the grid's value.
        return self.quantized + (self.weight - self.weight.detach())


class Linear(Weight):
    """y = x Wᵀ without bias; W is (out, in), kept in the parameter's own precision and cast to x's for use.

    W starts uniform in ±1/sqrt(in). `observer`, where set, is shown every x, before the product; statistics
    for quantization are gathered by it. Never while compiled code runs.
    """

    def __init__(self, inputs: int, outputs: int, role: Role) -> None:
        bound = inputs**-0.5
        super().__init__(torch.empty(outputs, inputs).uniform_(-bound, bound), role)
        self.adapter: Adapter | None = None
        self.observer: Observer | None = None

    def observe(self, x: Tensor) -> None:
        """Shows x to the observer. Whoever multiplies with `used_weight` without `forward` calls this."""
        if self.observer is not None:
            self.observer(x)

    def forward(self, x: Tensor) -> Tensor:
        self.observe(x)
        y = torch.nn.functional.linear(x, self.used_weight().to(x.dtype))
        return y if self.adapter is None else y + self.adapter(x)


class ResidualLinear(Linear):
    """y = s ⊙ (x Wᵀ): the projection back into the residual stream, with a learned factor per channel.

    W starts at zero, so that every block starts as the identity; s starts at 1.
    """

    def __init__(self, inputs: int, outputs: int, role: Role) -> None:
        super().__init__(inputs, outputs, role)
        torch.nn.init.zeros_(self.weight)
        self.scale_D = self.parameter("scale_D", torch.ones(outputs), Role.SCALAR)

    def forward(self, x: Tensor) -> Tensor:
        self.observe(x)
        # The factor goes onto the weight, not onto the product: its gradient is then a sum over the matrix,
        # and the unscaled product, as large as the residual stream, is neither kept nor read again.
        y = torch.nn.functional.linear(x, (self.scale_D[:, None] * self.used_weight()).to(x.dtype))
        return y if self.adapter is None else y + self.scale_D.to(y.dtype) * self.adapter(x)


def joint(x: Tensor, *projections: Linear) -> tuple[Tensor, ...]:
    """Several projections of one input as one matrix product: each projection's output, (..., out).

    The input is read once, and its gradient is one product too, instead of one each and their sum.
    """
    for projection in projections:
        projection.observe(x)
    weight = torch.cat([projection.used_weight().to(x.dtype) for projection in projections])
    outputs = torch.nn.functional.linear(x, weight).split([p.weight.shape[0] for p in projections], dim=-1)
    return tuple(
        y if projection.adapter is None else y + projection.adapter(x)
        for y, projection in zip(outputs, projections, strict=True)
    )
