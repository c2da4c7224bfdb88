"""Soft-capped cross-entropy over a few hundred tokens at a time.

The logits of a chunk stay in the processor's cache and are computed again for the gradient, which costs
one more matrix product and saves reading and writing N × V numbers about ten times.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bytegolf.kernels.capped_loss.reference import soft_cap

#: Logits in flight: 2¹⁹ float32 numbers are 2 MB, about one core's second-level cache.
_LOGITS_IN_FLIGHT = 2**19


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float | None) -> Tensor:
        losses, normalizers = [], []
        for h_CD, targets_C in _chunks(h_ND, targets_N, table_VD.shape[0]):
            capped_CV = soft_cap(h_CD @ table_VD.mT, cap)
            normalizer_C = torch.logsumexp(capped_CV, dim=1)
            losses.append(normalizer_C - capped_CV.gather(1, targets_C[:, None])[:, 0])
            normalizers.append(normalizer_C)
        ctx.save_for_backward(h_ND, table_VD, targets_N, torch.cat(normalizers))
        ctx.cap = cap
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        (gradient_N,) = gradients
        h_ND, table_VD, targets_N, normalizer_N = ctx.saved_tensors
        h_gradients = []
        table_gradient_VD = torch.zeros_like(table_VD, dtype=normalizer_N.dtype)
        first = 0
        for h_CD, targets_C in _chunks(h_ND, targets_N, table_VD.shape[0]):
            rows = slice(first, first + len(targets_C))
            first = rows.stop
            capped_CV = soft_cap(h_CD @ table_VD.mT, ctx.cap)
            # d loss / d capped = softmax − onehot; d capped / d logit = 1 − (capped / cap)².
            slope_CV = torch.exp(capped_CV - normalizer_N[rows, None])
            slope_CV[torch.arange(len(targets_C)), targets_C] -= 1.0
            if ctx.cap is not None:
                slope_CV = torch.addcmul(slope_CV, capped_CV.square_(), slope_CV, value=-(ctx.cap**-2))
            slope_CV = slope_CV.mul_(gradient_N[rows, None]).to(h_ND.dtype)
            h_gradients.append(slope_CV @ table_VD)
            table_gradient_VD += slope_CV.mT @ h_CD
        return torch.cat(h_gradients), table_gradient_VD.to(table_VD.dtype), None, None


def chunked_capped_cross_entropy(
    h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float | None
) -> Tensor:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy`."""
    loss = _ChunkedLoss.apply(h_ND, table_VD.to(h_ND.dtype), targets_N, cap)
    assert isinstance(loss, Tensor)
    return loss


def _chunks(h_ND: Tensor, targets_N: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(32, _LOGITS_IN_FLIGHT // vocabulary)
    return zip(h_ND.split(rows), targets_N.split(rows), strict=True)
