"""Soft-capped cross-entropy on GPUs, fused with the product that makes the logits.

Shapes: N tokens, D width, V vocabulary, P parts of the vocabulary. No N × V logits are stored: the forward
pass keeps one logarithm a token and part (as Wijmans et al. 2024, arXiv 2411.09009), the backward pass
computes the logits again, a slab of tokens at a time, turns them into their gradient where they are made, and
leaves the two remaining products to the library.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.capped_loss.reference import CapForm
from bytegolf.kernels.fused import Tiles, even_shares
from bytegolf.kernels.product_tile import operands, product_tile

# Two tiles share a multiprocessor, here by their registers, there by their memory: one computes exponentials,
# one multiplies.
FORWARD_TILES = Tiles(rows=128, columns=128, depth=64, warps=8, stages=3, registers=128)
BACKWARD_TILES = Tiles(rows=64, columns=128, depth=64, warps=4, stages=4)
#: Logits' gradients in flight: 2²⁸ of 16 bits are half a gigabyte, and enough tokens for fast products.
_SLAB = 2**28
#: Columns that one program walks over at most: enough of them that its start counts little, and programs
#: enough for a whole GPU from some 4,000 tokens on.
_PART_COLUMNS = 2048
#: Up to this cap e^cap, summed over any vocabulary, and e^−cap are within float32: no maximum is needed.
_SUMMABLE_CAP = 60.0

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)
_NO_CAP: tl.constexpr = tl.constexpr(0)
_TANH: tl.constexpr = tl.constexpr(1)
_POLYNOMIAL: tl.constexpr = tl.constexpr(2)


@triton.jit
def _capped(z, cap, FORM: tl.constexpr):
    """soft_cap(z) in bits, the units of the hardware's exponential, and the slope of the cap."""
    if FORM == _TANH:
        # c tanh(z / c) = 2 c s − c with slope 4 s (1 − s), where s = 1 / (1 + e^(−2 z / c)).
        share = 1.0 / (1.0 + tl.exp2(z * (-2.0 * _LOG2_E / cap)))
        bits = share * (2.0 * _LOG2_E * cap) - _LOG2_E * cap
        slope = 4.0 * share * (1.0 - share)
    elif FORM == _POLYNOMIAL:
        # Clamped before too: u⁵ would overflow.
        u = tl.minimum(tl.maximum(z * (1.0 / cap), -2.0), 2.0)
        square = u * u
        bent = u * (1.0 + square * (square * (1.0 / 15.0) - 1.0 / 3.0))
        bits = (_LOG2_E * cap) * tl.minimum(tl.maximum(bent, -1.0), 1.0)
        slope = tl.where(tl.abs(bent) >= 1.0, 0.0, 1.0 + square * (square * (1.0 / 3.0) - 1.0))
    else:
        bits = z * _LOG2_E
        slope = tl.full(z.shape, 1.0, dtype=tl.float32)
    return bits, slope


@triton.jit
def _target_logits(h_ND, table_VD, rows_n, target_n, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """Σ_d h[row, d] table[target, d] for each row, in float32."""
    h_rows = h_ND + rows_n.to(tl.int64)[:, None] * WIDTH
    table_rows = table_VD + target_n[:, None] * WIDTH
    logit_n = tl.zeros_like(target_n).to(tl.float32)
    for start in range(0, WIDTH, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        h = tl.load(h_rows + depth[None, :], mask=depth[None, :] < WIDTH, other=0.0)
        entry = tl.load(table_rows + depth[None, :], mask=depth[None, :] < WIDTH, other=0.0)
        logit_n += tl.sum(h.to(tl.float32) * entry.to(tl.float32), axis=1)
    return logit_n


@triton.jit
def _with_another_tile(highest_n, total_n, bits):
    """The largest exponent of each row so far, and the sum of powers of two relative to it."""
    higher_n = tl.maximum(highest_n, tl.max(bits, axis=1))
    tile_n = tl.sum(tl.exp2(bits - higher_n[:, None]), axis=1)
    return higher_n, total_n * tl.exp2(highest_n - higher_n) + tile_n


@triton.jit
def _forward_kernel(
    h_ND,
    table_VD,
    left_ND,
    right_VD,
    bias_V,
    targets_N,
    part_normalizers_PN,
    target_logits_N,
    tokens,
    vocabulary,
    cap,
    WIDTH: tl.constexpr,
    FORM: tl.constexpr,
    SUMMABLE: tl.constexpr,
    BIASED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILES_PER_PART: tl.constexpr,
):
    """The logsumexp of ROWS tokens over one part of the vocabulary; in the first, the targets' logits too."""
    part = tl.program_id(1)
    first_n = tl.program_id(0) * ROWS
    all_rows_n = first_n + tl.arange(0, ROWS)
    rows_n = tl.minimum(all_rows_n, tokens - 1)
    highest_n = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total_n = tl.zeros((ROWS,), dtype=tl.float32)
    for tile in range(TILES_PER_PART):
        first_v = (part * TILES_PER_PART + tile) * COLUMNS
        columns_v = first_v + tl.arange(0, COLUMNS)
        z = product_tile(
            left_ND, right_VD, first_n, first_v, tokens, vocabulary, WIDTH, ROWS, COLUMNS, DEPTH, DESCRIBED
        )
        if BIASED:
            z += tl.load(bias_V + tl.minimum(columns_v, vocabulary - 1))[None, :]
        bits, _ = _capped(z, cap, FORM)
        present = (columns_v < vocabulary)[None, :]
        if SUMMABLE:
            total_n += tl.sum(tl.where(present, tl.exp2(bits), 0.0), axis=1)
        else:
            bits = tl.where(present, bits, float("-inf"))
            highest_n, total_n = _with_another_tile(highest_n, total_n, bits)
    normalizer_n = tl.log2(total_n) * _LN_2
    if not SUMMABLE:
        normalizer_n += highest_n * _LN_2
    present_n = all_rows_n < tokens
    tl.store(part_normalizers_PN + part.to(tl.int64) * tokens + rows_n, normalizer_n, mask=present_n)
    if part == 0:
        target_n = tl.load(targets_N + rows_n)
        logit_n = _target_logits(h_ND, table_VD, rows_n, target_n, WIDTH, DEPTH)
        if BIASED:
            logit_n += tl.load(bias_V + target_n)
        target_bits_n, _ = _capped(logit_n, cap, FORM)
        tl.store(target_logits_N + rows_n, target_bits_n * _LN_2, mask=present_n)


@triton.jit
def _backward_kernel(
    left_ND,
    right_VD,
    bias_V,
    targets_N,
    normalizer_N,
    loss_gradient_N,
    normalizer_gradient_N,
    logit_gradient_NV,
    tokens,
    vocabulary,
    cap,
    WIDTH: tl.constexpr,
    FORM: tl.constexpr,
    BIASED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile of the gradient of the logits before their cap."""
    column_tiles = tl.cdiv(vocabulary, COLUMNS)
    first_n = (tl.program_id(0) // column_tiles) * ROWS
    first_v = (tl.program_id(0) % column_tiles) * COLUMNS
    all_rows_n, all_columns_v = first_n + tl.arange(0, ROWS), first_v + tl.arange(0, COLUMNS)
    rows_n = tl.minimum(all_rows_n, tokens - 1)
    z = product_tile(
        left_ND, right_VD, first_n, first_v, tokens, vocabulary, WIDTH, ROWS, COLUMNS, DEPTH, DESCRIBED
    )
    if BIASED:
        z += tl.load(bias_V + tl.minimum(all_columns_v, vocabulary - 1))[None, :]
    bits, slope = _capped(z, cap, FORM)
    probability = tl.exp2(bits - (tl.load(normalizer_N + rows_n) * _LOG2_E)[:, None])
    loss_gradient_n = tl.load(loss_gradient_N + rows_n)
    both_n = loss_gradient_n + tl.load(normalizer_gradient_N + rows_n)
    # d loss / d capped = softmax − onehot, d normalizer / d capped = softmax.
    is_target = all_columns_v[None, :] == tl.load(targets_N + rows_n).to(tl.int32)[:, None]
    gradient = probability * both_n[:, None]
    gradient = tl.where(is_target, gradient - loss_gradient_n[:, None], gradient) * slope
    # A slab has fewer than 2³¹ entries.
    place = logit_gradient_NV + all_rows_n[:, None] * vocabulary + all_columns_v[None, :]
    present = (all_rows_n < tokens)[:, None] & (all_columns_v < vocabulary)[None, :]
    tl.store(place, gradient.to(logit_gradient_NV.dtype.element_ty), mask=present)


def losses_and_normalizers(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: str,
    *,
    tiles: Tiles = FORWARD_TILES,
) -> tuple[Tensor, Tensor]:
    """Losses and normalizers, (N,) each in float32; h and table are contiguous and of one type."""
    (tokens, width), vocabulary = h_ND.shape, table_VD.shape[0]
    parts, tiles_per_part = even_shares(vocabulary, tiles.columns, _PART_COLUMNS)
    part_normalizers_PN = h_ND.new_empty((parts, tokens), dtype=torch.float32)
    target_logits_N = h_ND.new_empty(tokens, dtype=torch.float32)
    left_ND, right_VD, described = operands(h_ND, table_VD, tiles)
    _forward_kernel[(triton.cdiv(tokens, tiles.rows), parts)](
        h_ND,
        table_VD,
        left_ND,
        right_VD,
        bias_V,
        targets_N,
        part_normalizers_PN,
        target_logits_N,
        tokens,
        vocabulary,
        _bound(cap),
        WIDTH=width,
        FORM=_form(cap, form),
        SUMMABLE=cap is not None and cap <= _SUMMABLE_CAP,
        BIASED=bias_V is not None,
        DESCRIBED=described,
        TILES_PER_PART=tiles_per_part,
        **tiles.launch,
    )
    normalizer_N = torch.logsumexp(part_normalizers_PN, dim=0)
    return normalizer_N - target_logits_N, normalizer_N


def logit_gradients(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    normalizer_N: Tensor,
    gradients_N: tuple[Tensor, Tensor],
    cap: float | None,
    form: str,
    *,
    tiles: Tiles = BACKWARD_TILES,
) -> Tensor:
    """The gradient of the logits before their cap, (N, V) in the type of h.

    `gradients_N`: those of losses and normalizers, float32, contiguous.
    """
    (tokens, width), vocabulary = h_ND.shape, table_VD.shape[0]
    assert tokens * vocabulary < 2**31, "more entries than the kernel can count"
    logit_gradient_NV = h_ND.new_empty((tokens, vocabulary))
    left_ND, right_VD, described = operands(h_ND, table_VD, tiles)
    _backward_kernel[(triton.cdiv(tokens, tiles.rows) * triton.cdiv(vocabulary, tiles.columns),)](
        left_ND,
        right_VD,
        bias_V,
        targets_N,
        normalizer_N,
        *gradients_N,
        logit_gradient_NV,
        tokens,
        vocabulary,
        _bound(cap),
        WIDTH=width,
        FORM=_form(cap, form),
        BIASED=bias_V is not None,
        DESCRIBED=described,
        **tiles.launch,
    )
    return logit_gradient_NV


def slab_rows(tokens: int, vocabulary: int) -> int:
    """How many tokens the backward pass takes at once."""
    _, tiles = even_shares(tokens, BACKWARD_TILES.rows, _SLAB // vocabulary)
    return tiles * BACKWARD_TILES.rows


def _bound(cap: float | None) -> float:
    return 1.0 if cap is None else cap


def _form(cap: float | None, form: str) -> int:
    if cap is None:
        return _NO_CAP.value
    return _TANH.value if form == "tanh" else _POLYNOMIAL.value


#: Where torch knows the operators: a copy of this module, which an exported model brings, has its own.
_SPACE = __name__.replace(".", "_")


@torch.library.custom_op(f"{_SPACE}::capped_loss", mutates_args=())
def _loss(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: str,
) -> tuple[Tensor, Tensor]:
    return losses_and_normalizers(h_ND, table_VD, bias_V, targets_N, cap, form)


@_loss.register_fake
def _(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: str,
) -> tuple[Tensor, Tensor]:
    shape = h_ND.shape[:1]
    return h_ND.new_empty(shape, dtype=torch.float32), h_ND.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(f"{_SPACE}::capped_loss_gradient", mutates_args=())
def _loss_gradient(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    normalizer_N: Tensor,
    loss_gradient_N: Tensor,
    normalizer_gradient_N: Tensor,
    cap: float | None,
    form: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h, table and bias, the last empty without one."""
    vocabulary = table_VD.shape[0]
    h_gradient_ND = torch.empty_like(h_ND)
    table_gradient_VD = torch.zeros_like(table_VD, dtype=torch.float32)
    bias_gradient_V = table_gradient_VD.new_zeros(0 if bias_V is None else vocabulary)
    slab = slab_rows(h_ND.shape[0], vocabulary)
    for first in range(0, h_ND.shape[0], slab):
        rows = slice(first, first + slab)
        gradients = (loss_gradient_N[rows].contiguous(), normalizer_gradient_N[rows].contiguous())
        logit_gradient_SV = logit_gradients(
            h_ND[rows], table_VD, bias_V, targets_N[rows], normalizer_N[rows], gradients, cap, form
        )
        torch.mm(logit_gradient_SV, table_VD, out=h_gradient_ND[rows])
        table_gradient_VD += logit_gradient_SV.mT @ h_ND[rows]
        if bias_V is not None:
            bias_gradient_V += logit_gradient_SV.sum(dim=0, dtype=torch.float32)
        # Otherwise it is held while the next one is made.
        del logit_gradient_SV
    return h_gradient_ND, table_gradient_VD.to(table_VD.dtype), bias_gradient_V


@_loss_gradient.register_fake
def _(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    normalizer_N: Tensor,
    loss_gradient_N: Tensor,
    normalizer_gradient_N: Tensor,
    cap: float | None,
    form: str,
) -> tuple[Tensor, Tensor, Tensor]:
    entries = 0 if bias_V is None else table_VD.shape[0]
    bias_gradient_V = table_VD.new_empty(entries, dtype=torch.float32)
    return torch.empty_like(h_ND), torch.empty_like(table_VD), bias_gradient_V


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    h_ND, table_VD, bias_V, targets_N, ctx.cap, ctx.form = inputs
    ctx.save_for_backward(h_ND, table_VD, bias_V, targets_N, output[1])


def _propagate(ctx: Any, *gradients_N: Tensor) -> tuple[Tensor | None, ...]:
    h_ND, table_VD, bias_V, targets_N, normalizer_N = ctx.saved_tensors
    h, table, bias = _loss_gradient(
        h_ND, table_VD, bias_V, targets_N, normalizer_N, *gradients_N, ctx.cap, ctx.form
    )
    return h, table, None if bias_V is None else bias, None, None, None


_loss.register_autograd(_propagate, setup_context=_remember)


def fused_capped_cross_entropy_and_normalizer(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> tuple[Tensor, Tensor]:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy_and_normalizer`; on a CUDA GPU."""
    bias_V = None if bias_V is None else bias_V.float()
    table_VD = table_VD.to(h_ND.dtype).contiguous()
    return _loss(h_ND.contiguous(), table_VD, bias_V, targets_N.contiguous(), cap, form)
