"""The plain form: the product, then the activation."""

import torch
from torch import Tensor


def leaky_square(h: Tensor, slope: float) -> Tensor:
    """h² for h > 0 and (slope · h)² below, elementwise (So et al. 2021; 16 MB challenge, PR 493)."""
    return torch.nn.functional.leaky_relu(h, slope).square()


def quadratic(h: Tensor, coefficients_4: Tensor) -> Tensor:
    """h (a h + b), elementwise, with the first two coefficients where h > 0 and the last two elsewhere.

    xIELU (Huang & Schlag 2024, arXiv 2411.13010) in the form of the 16 MB challenge's PR 1586.
    """
    # As second factors single numbers neither widen 16-bit types nor, as first ones on a CPU, are rounded.
    square_above, slope_above, square_below, slope_below = coefficients_4.unbind()
    above, below = h * (h * square_above + slope_above), h * (h * square_below + slope_below)
    return torch.where(h > 0, above, below)


def squared_projection(x: Tensor, weight_MD: Tensor, slope: float) -> Tensor:
    """See `bytegolf.kernels.activated_projection.squared_projection`."""
    return leaky_square(torch.nn.functional.linear(x, weight_MD.to(x.dtype)), slope)


def quadratic_projection(x: Tensor, weight_MD: Tensor, coefficients_4: Tensor) -> Tensor:
    """See `bytegolf.kernels.activated_projection.quadratic_projection`."""
    return quadratic(torch.nn.functional.linear(x, weight_MD.to(x.dtype)), coefficients_4)
