"""RMS normalization that keeps one factor per row for the gradient, for CPUs, where torch's is not fused."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bytegolf.kernels.rms_norm.reference import EPSILON


def _factor(x: Tensor) -> Tensor:
    precise = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
    return torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(EPSILON)).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        factor = _factor(x)
        y = x * factor
        ctx.save_for_backward(y, factor)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        (gradient,) = gradients
        y, factor = ctx.saved_tensors
        # dx = factor · (g − y · mean(g · y))
        mean = (gradient * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(gradient, y, mean, value=-1).mul_(factor)


def rms_norm(x: Tensor) -> Tensor:
    """See `bytegolf.kernels.rms_norm.rms_norm`."""
    if not torch.is_grad_enabled():
        # A decoder calls this for single tokens, where autograd's own work would take longer than the sums.
        return x * _factor(x)
    y = _RmsNorm.apply(x)
    assert isinstance(y, Tensor)
    return y
