"""The one matrix multiplication that holds weights, with slots for quantization-aware training and adapters."""

from collections.abc import Callable

import torch
from torch import Tensor

from bytegolf.model.roles import Component, Role

#: Replaces a weight by the value that the exported grid would give it; the gradient passes unchanged.
FakeQuantizer = Callable[[Tensor], Tensor]
#: Adds a correction to the output: (input (..., in)) -> (..., out).
Adapter = Callable[[Tensor], Tensor]


class Linear(Component):
    """y = x Wᵀ without bias; W is (out, in), kept in the parameter's own precision and cast to x's for use.

    `zero` starts W at zero (projections back into the residual stream, so that every block starts as the
    identity); otherwise W is uniform in ±1/sqrt(in).
    """

    def __init__(self, inputs: int, outputs: int, role: Role, *, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else inputs**-0.5
        self.weight = self.parameter("weight", torch.empty(outputs, inputs).uniform_(-bound, bound), role)
        self.fake_quantizer: FakeQuantizer | None = None
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.fake_quantizer is None else self.fake_quantizer(self.weight)
        y = torch.nn.functional.linear(x, weight.to(x.dtype))
        return y if self.adapter is None else y + self.adapter(x)
