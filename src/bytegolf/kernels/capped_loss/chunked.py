"""Soft-capped cross-entropy over a few hundred tokens at a time.

The logits of a chunk stay in the processor's cache and are computed again for the gradient, which costs
one more matrix product and saves reading and writing N × V numbers about ten times.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bytegolf.kernels.capped_loss.reference import CapForm, polynomial_slope, soft_cap

#: Logits in flight: 2¹⁹ float32 numbers are 2 MB, about one core's second-level cache.
_LOGITS_IN_FLIGHT = 2**19


class _ChunkedLoss(torch.autograd.Function):
    """Losses and normalizers, (N,) each."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        table_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        cap: float | None,
        form: CapForm,
    ) -> tuple[Tensor, Tensor]:
        losses, normalizers = [], []
        for h_CD, targets_C in _chunks(h_ND, targets_N, table_VD.shape[0]):
            capped_CV = soft_cap(_logits(h_CD, table_VD, bias_V), cap, form)
            normalizer_C = torch.logsumexp(capped_CV, dim=1)
            losses.append(normalizer_C - capped_CV.gather(1, targets_C[:, None])[:, 0])
            normalizers.append(normalizer_C)
        normalizer_N = torch.cat(normalizers)
        ctx.save_for_backward(h_ND, table_VD, bias_V, targets_N, normalizer_N)
        ctx.cap, ctx.form = cap, form
        ctx.set_materialize_grads(False)
        return torch.cat(losses), normalizer_N

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None, None]:
        h_ND, table_VD, bias_V, targets_N, normalizer_N = ctx.saved_tensors
        loss_gradient_N, normalizer_gradient_N = gradients
        if loss_gradient_N is None:
            loss_gradient_N = torch.zeros_like(normalizer_N)
        h_gradients = []
        table_gradient_VD = torch.zeros_like(table_VD, dtype=normalizer_N.dtype)
        bias_gradient_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=normalizer_N.dtype)
        first = 0
        for h_CD, targets_C in _chunks(h_ND, targets_N, table_VD.shape[0]):
            rows = slice(first, first + len(targets_C))
            first = rows.stop
            logits_CV = _logits(h_CD, table_VD, bias_V)
            capped_CV = soft_cap(logits_CV, ctx.cap, ctx.form)
            slope_CV = torch.exp(capped_CV - normalizer_N[rows, None])
            # d loss / d capped = softmax − onehot, d normalizer / d capped = softmax.
            weight_C1 = loss_gradient_N[rows, None]
            if normalizer_gradient_N is None:
                slope_CV[torch.arange(len(targets_C)), targets_C] -= 1.0
            else:
                slope_CV *= weight_C1 + normalizer_gradient_N[rows, None]
                slope_CV[torch.arange(len(targets_C)), targets_C] -= weight_C1[:, 0]
            if ctx.cap is not None and ctx.form == "tanh":
                # d capped / d logit = 1 − (capped / cap)².
                slope_CV = torch.addcmul(slope_CV, capped_CV.square_(), slope_CV, value=-(ctx.cap**-2))
            elif ctx.cap is not None:
                slope_CV *= polynomial_slope(logits_CV, capped_CV, ctx.cap)
            if normalizer_gradient_N is None:
                slope_CV = slope_CV.mul_(weight_C1)
            if bias_gradient_V is not None:
                bias_gradient_V += slope_CV.sum(dim=0)
            slope_CV = slope_CV.to(h_ND.dtype)
            h_gradients.append(slope_CV @ table_VD)
            table_gradient_VD += slope_CV.mT @ h_CD
        if bias_gradient_V is not None:
            bias_gradient_V = bias_gradient_V.to(bias_V.dtype)
        return torch.cat(h_gradients), table_gradient_VD.to(table_VD.dtype), bias_gradient_V, None, None, None


def chunked_capped_cross_entropy_and_normalizer(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> tuple[Tensor, Tensor]:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy_and_normalizer`."""
    result = _ChunkedLoss.apply(h_ND, table_VD.to(h_ND.dtype), bias_V, targets_N, cap, form)
    assert isinstance(result, tuple)
    return result


def chunked_capped_cross_entropy(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> Tensor:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy`."""
    return chunked_capped_cross_entropy_and_normalizer(h_ND, table_VD, bias_V, targets_N, cap, form)[0]


def _logits(h_CD: Tensor, table_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_CV = h_CD @ table_VD.mT
    return logits_CV if bias_V is None else logits_CV + bias_V


def _chunks(h_ND: Tensor, targets_N: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(32, _LOGITS_IN_FLIGHT // vocabulary)
    return zip(h_ND.split(rows), targets_N.split(rows), strict=True)
