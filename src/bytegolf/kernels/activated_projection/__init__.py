"""A projection and the activation after it: f(x Wᵀ) with f quadratic on either side of zero.

Shapes: D inputs, M hidden channels. Bodies: `reference` (anywhere; the compiler fuses the activation with
what follows), `triton` (CUDA GPUs, 16-bit: the activation is applied where the product is made).
"""

from torch import Tensor

from bytegolf.kernels.activated_projection import reference
from bytegolf.kernels.activated_projection.reference import leaky_square, quadratic
from bytegolf.kernels.fused import FUSED_KERNELS, runs_fused

if FUSED_KERNELS:
    from bytegolf.kernels.activated_projection.triton import (
        fused_quadratic_projection,
        fused_squared_projection,
    )

__all__ = ["leaky_square", "quadratic", "quadratic_projection", "squared_projection"]


def squared_projection(x: Tensor, weight_MD: Tensor, slope: float) -> Tensor:
    """leaky_square(x Wᵀ, slope), (..., M), for x (..., D); the weight is cast to x's type."""
    if runs_fused(x):
        return fused_squared_projection(x, weight_MD, slope)
    return reference.squared_projection(x, weight_MD, slope)


def quadratic_projection(x: Tensor, weight_MD: Tensor, coefficients_4: Tensor) -> Tensor:
    """quadratic(x Wᵀ, coefficients), (..., M), for x (..., D); the weight is cast to x's type."""
    if runs_fused(x):
        return fused_quadratic_projection(x, weight_MD, coefficients_4)
    return reference.quadratic_projection(x, weight_MD, coefficients_4)
