"""Projection and activation in one kernel on GPUs, after the 16 MB challenge's PR 1530 and PR 1728.

Shapes: N tokens, D inputs, M hidden channels. Both activations are f(h) = h (a h + b) with (a, b) for h > 0
and others elsewhere; the squared one has (1, 0) and (slope², 0). As there, f is taken of h as it is stored,
so that forward and backward pass see the same value. The backward pass's two products are the library's.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.fused import Tiles
from bytegolf.kernels.product_tile import product_tile

TILES = Tiles(rows=128, columns=128, depth=64, warps=8, stages=3)
#: Entries that one program of the elementwise backward pass takes.
_ENTRIES = 4096


@triton.jit
def _projection_kernel(
    x_ND,
    weight_MD,
    coefficients_4,
    square_below,
    hidden_NM,
    activated_NM,
    tokens,
    channels,
    WIDTH: tl.constexpr,
    SQUARED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    column_tiles = tl.cdiv(channels, COLUMNS)
    all_rows_n = (tl.program_id(0) // column_tiles) * ROWS + tl.arange(0, ROWS)
    all_columns_m = (tl.program_id(0) % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    # The last tiles repeat the last row and the last column instead of reading beyond the end.
    rows_n = tl.minimum(all_rows_n, tokens - 1)
    columns_m = tl.minimum(all_columns_m, channels - 1)
    product = product_tile(x_ND, weight_MD, rows_n, columns_m, WIDTH, ROWS, COLUMNS, DEPTH)
    stored = product.to(hidden_NM.dtype.element_ty)
    h = stored.to(tl.float32)
    if SQUARED:
        activated = h * h * tl.where(h > 0, 1.0, square_below)
    else:
        square = tl.where(h > 0, tl.load(coefficients_4), tl.load(coefficients_4 + 2))
        slope = tl.where(h > 0, tl.load(coefficients_4 + 1), tl.load(coefficients_4 + 3))
        activated = h * (square * h + slope)
    place = all_rows_n.to(tl.int64)[:, None] * channels + all_columns_m[None, :]
    present = (all_rows_n < tokens)[:, None] & (all_columns_m < channels)[None, :]
    tl.store(hidden_NM + place, stored, mask=present)
    tl.store(activated_NM + place, activated.to(activated_NM.dtype.element_ty), mask=present)


@triton.jit
def _slope_kernel(
    gradient_NM,
    hidden_NM,
    coefficients_4,
    square_below,
    hidden_gradient_NM,
    coefficient_gradients_4P,
    entries,
    SQUARED: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """gradient · f′(h), and this program's share of the gradients of the four coefficients."""
    program = tl.program_id(0)
    entry = program.to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    present = entry < entries
    gradient = tl.load(gradient_NM + entry, mask=present, other=0.0).to(tl.float32)
    h = tl.load(hidden_NM + entry, mask=present, other=0.0).to(tl.float32)
    if SQUARED:
        hidden_gradient = gradient * 2.0 * h * tl.where(h > 0, 1.0, square_below)
    else:
        square = tl.where(h > 0, tl.load(coefficients_4), tl.load(coefficients_4 + 2))
        slope = tl.where(h > 0, tl.load(coefficients_4 + 1), tl.load(coefficients_4 + 3))
        hidden_gradient = gradient * (2.0 * square * h + slope)
        along = gradient * h
        above = tl.where(h > 0, along, 0.0)
        below = along - above
        programs = tl.num_programs(0)
        tl.store(coefficient_gradients_4P + program, tl.sum(above * h))
        tl.store(coefficient_gradients_4P + programs + program, tl.sum(above))
        tl.store(coefficient_gradients_4P + 2 * programs + program, tl.sum(below * h))
        tl.store(coefficient_gradients_4P + 3 * programs + program, tl.sum(below))
    stored = hidden_gradient.to(hidden_gradient_NM.dtype.element_ty)
    tl.store(hidden_gradient_NM + entry, stored, mask=present)


def project_and_activate(
    x_ND: Tensor,
    weight_MD: Tensor,
    coefficients_4: Tensor | None,
    square_below: float,
    *,
    tiles: Tiles = TILES,
) -> tuple[Tensor, Tensor]:
    """f(x Wᵀ) and x Wᵀ, (N, M) each; x and W are contiguous and of one type.

    Without coefficients f is h² above zero and square_below · h² below.
    """
    (tokens, width), channels = x_ND.shape, weight_MD.shape[0]
    hidden_NM = x_ND.new_empty((tokens, channels))
    activated_NM = torch.empty_like(hidden_NM)
    _projection_kernel[(triton.cdiv(tokens, tiles.rows) * triton.cdiv(channels, tiles.columns),)](
        x_ND,
        weight_MD,
        coefficients_4,
        square_below,
        hidden_NM,
        activated_NM,
        tokens,
        channels,
        WIDTH=width,
        SQUARED=coefficients_4 is None,
        **tiles.launch,
    )
    return activated_NM, hidden_NM


@torch.library.custom_op("bytegolf::activated_projection", mutates_args=())
def _project(
    x_ND: Tensor, weight_MD: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    return project_and_activate(x_ND, weight_MD, coefficients_4, square_below)


@_project.register_fake
def _(
    x_ND: Tensor, weight_MD: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    shape = (x_ND.shape[0], weight_MD.shape[0])
    return x_ND.new_empty(shape), x_ND.new_empty(shape)


@torch.library.custom_op("bytegolf::activation_slope", mutates_args=())
def _slope(
    gradient_NM: Tensor, hidden_NM: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    """The gradient of h, and that of each coefficient by program, (4, P), empty without coefficients."""
    hidden_gradient_NM = torch.empty_like(hidden_NM)
    programs = triton.cdiv(hidden_NM.numel(), _ENTRIES)
    coefficient_gradients_4P = hidden_NM.new_empty(
        (4, 0 if coefficients_4 is None else programs), dtype=torch.float32
    )
    _slope_kernel[(programs,)](
        gradient_NM,
        hidden_NM,
        coefficients_4,
        square_below,
        hidden_gradient_NM,
        coefficient_gradients_4P,
        hidden_NM.numel(),
        SQUARED=coefficients_4 is None,
        ENTRIES=_ENTRIES,
        num_warps=8,
    )
    return hidden_gradient_NM, coefficient_gradients_4P


@_slope.register_fake
def _(
    gradient_NM: Tensor, hidden_NM: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    programs = 0 if coefficients_4 is None else -(-hidden_NM.numel() // _ENTRIES)
    return torch.empty_like(hidden_NM), hidden_NM.new_empty((4, programs), dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_ND, weight_MD, coefficients_4, ctx.square_below = inputs
    ctx.save_for_backward(x_ND, weight_MD, coefficients_4, output[1])


def _propagate(ctx: Any, gradient_NM: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    # x Wᵀ is an output for the backward pass alone: nothing else reads it, so it has no gradient of its own.
    x_ND, weight_MD, coefficients_4, hidden_NM = ctx.saved_tensors
    hidden_gradient_NM, coefficient_gradients_4P = _slope(
        gradient_NM.contiguous(), hidden_NM, coefficients_4, ctx.square_below
    )
    return (
        hidden_gradient_NM @ weight_MD,
        hidden_gradient_NM.mT @ x_ND,
        None if coefficients_4 is None else coefficient_gradients_4P.sum(dim=1),
        None,
    )


_project.register_autograd(_propagate, setup_context=_remember)


def _fused(x: Tensor, weight_MD: Tensor, coefficients_4: Tensor | None, square_below: float) -> Tensor:
    x_ND = x.flatten(0, -2).contiguous()
    weight_MD = weight_MD.to(x.dtype).contiguous()
    return _project(x_ND, weight_MD, coefficients_4, square_below)[0].unflatten(0, x.shape[:-1])


def fused_squared_projection(x: Tensor, weight_MD: Tensor, slope: float) -> Tensor:
    """See `bytegolf.kernels.activated_projection.squared_projection`; on a CUDA GPU."""
    return _fused(x, weight_MD, None, slope * slope)


def fused_quadratic_projection(x: Tensor, weight_MD: Tensor, coefficients_4: Tensor) -> Tensor:
    """See `bytegolf.kernels.activated_projection.quadratic_projection`; on a CUDA GPU."""
    return _fused(x, weight_MD, coefficients_4.float(), 0.0)
