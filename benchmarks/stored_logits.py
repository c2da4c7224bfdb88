"""Rivals of the fused loss for `kernel_speed.py`, whose logits the library makes; kernels read rows of them.

Stored: three matrix products instead of four, and 2 · N · V bytes kept from the forward to the backward pass,
each of which reads a row of logits once. Made again: the forward pass is the package's, and the backward pass
makes the logits of a slab a second time, turned into their gradient in place. Both take the gradient from
logits in 16 bits, as the plain form does. Kept apart from the package until a measurement prefers one.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bytegolf.kernels.capped_loss import triton as fused


@triton.jit
def _forward_kernel(logits_NV, targets_N, normalizer_N, loss_N, vocabulary, cap, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    z = tl.load(logits_NV + row * vocabulary + columns, mask=columns < vocabulary, other=float("-inf"))
    # Minus infinity, beyond the vocabulary, is capped to −cap, and so taken out after the exponential.
    capped = 2.0 * cap / (1.0 + tl.exp(z.to(tl.float32) * (-2.0 / cap))) - cap
    total = tl.sum(tl.where(columns < vocabulary, tl.exp(capped - cap), 0.0))
    normalizer = cap + tl.log(total)
    target = tl.load(logits_NV + row * vocabulary + tl.load(targets_N + row)).to(tl.float32)
    tl.store(normalizer_N + row, normalizer)
    tl.store(loss_N + row, normalizer - (2.0 * cap / (1.0 + tl.exp(target * (-2.0 / cap))) - cap))


@triton.jit
def _backward_kernel(
    logits_NV, targets_N, normalizer_N, weight_N, gradient_NV, vocabulary, cap, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    present = columns < vocabulary
    z = tl.load(logits_NV + row * vocabulary + columns, mask=present, other=0.0).to(tl.float32)
    capped = 2.0 * cap / (1.0 + tl.exp(z * (-2.0 / cap))) - cap
    gradient = tl.exp(capped - tl.load(normalizer_N + row))
    gradient = tl.where(columns == tl.load(targets_N + row), gradient - 1.0, gradient)
    slope = 1.0 - (capped / cap) * (capped / cap)
    gradient = gradient * slope * tl.load(weight_N + row)
    place = gradient_NV + row * vocabulary + columns
    tl.store(place, gradient.to(gradient_NV.dtype.element_ty), mask=present)


@triton.jit
def _in_place_kernel(logits_NV, targets_N, weight_N, vocabulary, cap, COLUMNS: tl.constexpr):
    """A row of logits becomes their gradient, normalized by itself: rounded, they have another sum."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    present = columns < vocabulary
    z = tl.load(logits_NV + row * vocabulary + columns, mask=present, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(z * (-2.0 / cap)))
    # e^(capped − cap).
    power = tl.where(present, tl.exp((share - 1.0) * (2.0 * cap)), 0.0)
    gradient = power * (1.0 / tl.sum(power))
    gradient = tl.where(columns == tl.load(targets_N + row), gradient - 1.0, gradient)
    gradient = gradient * (4.0 * share * (1.0 - share)) * tl.load(weight_N + row)
    tl.store(logits_NV + row * vocabulary + columns, gradient.to(logits_NV.dtype.element_ty), mask=present)


class _StoredLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float) -> Tensor:
        logits_NV = h_ND @ table_VD.mT
        loss_N = logits_NV.new_empty(len(h_ND), dtype=torch.float32)
        normalizer_N = torch.empty_like(loss_N)
        _forward_kernel[(len(h_ND),)](
            logits_NV,
            targets_N,
            normalizer_N,
            loss_N,
            len(table_VD),
            cap,
            COLUMNS=triton.next_power_of_2(len(table_VD)),
            num_warps=8,
        )
        ctx.save_for_backward(h_ND, table_VD, targets_N, normalizer_N, logits_NV)
        ctx.cap = cap
        return loss_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        h_ND, table_VD, targets_N, normalizer_N, logits_NV = ctx.saved_tensors
        gradient_NV = torch.empty_like(logits_NV)
        vocabulary = len(table_VD)
        _backward_kernel[(len(h_ND), triton.cdiv(vocabulary, 2048))](
            logits_NV,
            targets_N,
            normalizer_N,
            gradients[0].contiguous(),
            gradient_NV,
            vocabulary,
            ctx.cap,
            COLUMNS=2048,
            num_warps=4,
        )
        return gradient_NV @ table_VD, gradient_NV.mT @ h_ND, None, None


class _RemadeLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float) -> Tensor:
        ctx.save_for_backward(h_ND, table_VD, targets_N)
        ctx.cap = cap
        return fused.losses_and_normalizers(h_ND, table_VD, None, targets_N, cap, "tanh")[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        h_ND, table_VD, targets_N = ctx.saved_tensors
        weight_N = gradients[0].contiguous()
        h_gradient_ND = torch.empty_like(h_ND)
        table_gradient_VD = torch.zeros_like(table_VD, dtype=torch.float32)
        vocabulary = len(table_VD)
        slab = fused.slab_rows(len(h_ND), vocabulary)
        for first in range(0, len(h_ND), slab):
            rows = slice(first, first + slab)
            logits_SV = h_ND[rows] @ table_VD.mT
            _in_place_kernel[(len(logits_SV),)](
                logits_SV,
                targets_N[rows],
                weight_N[rows],
                vocabulary,
                ctx.cap,
                COLUMNS=triton.next_power_of_2(vocabulary),
                num_warps=8,
            )
            torch.mm(logits_SV, table_VD, out=h_gradient_ND[rows])
            table_gradient_VD += logits_SV.mT @ h_ND[rows]
            del logits_SV
        return h_gradient_ND, table_gradient_VD.to(table_VD.dtype), None, None


def remade_logits_cross_entropy(h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """−log softmax(cap · tanh(h tableᵀ / cap))[target], (N,) in float32; cap at most 40."""
    loss_N = _RemadeLogits.apply(h_ND, table_VD, targets_N, cap)
    assert isinstance(loss_N, Tensor)
    return loss_N


def stored_logits_cross_entropy(h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """−log softmax(cap · tanh(h tableᵀ / cap))[target], (N,) in float32; cap at most 40."""
    loss_N = _StoredLogits.apply(h_ND, table_VD, targets_N, cap)
    assert isinstance(loss_N, Tensor)
    return loss_N
