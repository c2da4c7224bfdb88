"""Projection and activation in one kernel on GPUs, after the 16 MB challenge's PR 1530 and PR 1728.

Shapes: N tokens, D inputs, M hidden channels. Both activations are f(h) = h (a h + b) with (a, b) for h > 0
and others elsewhere; the squared one has (1, 0) and (slope², 0). As there, f is taken of h as it is stored,
so that forward and backward pass see the same value. Where slope is 0, h is not stored: √f is all that the
backward pass needs, and the next product keeps f anyway. The backward pass's two products are the library's.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.fused import Tiles
from bytegolf.kernels.product_tile import operands, product_tile

TILES = Tiles(rows=128, columns=128, depth=64, warps=8, stages=3, registers=128)
#: Entries that one program of the elementwise backward pass takes.
_ENTRIES = 4096

_SQUARE: tl.constexpr = tl.constexpr(0)
_LEAKY_SQUARE: tl.constexpr = tl.constexpr(1)
_QUADRATIC: tl.constexpr = tl.constexpr(2)


@triton.jit
def _projection_kernel(
    left_ND,
    right_MD,
    coefficients_4,
    square_below,
    hidden_NM,
    activated_NM,
    tokens,
    channels,
    WIDTH: tl.constexpr,
    FORM: tl.constexpr,
    DESCRIBED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    column_tiles = tl.cdiv(channels, COLUMNS)
    first_n = (tl.program_id(0) // column_tiles) * ROWS
    first_m = (tl.program_id(0) % column_tiles) * COLUMNS
    product = product_tile(
        left_ND, right_MD, first_n, first_m, tokens, channels, WIDTH, ROWS, COLUMNS, DEPTH, DESCRIBED
    )
    stored = product.to(activated_NM.dtype.element_ty)
    if FORM == _SQUARE:
        h = product
    else:
        h = stored.to(tl.float32)
    if FORM == _QUADRATIC:
        square = tl.where(h > 0, tl.load(coefficients_4), tl.load(coefficients_4 + 2))
        slope = tl.where(h > 0, tl.load(coefficients_4 + 1), tl.load(coefficients_4 + 3))
        activated = h * (square * h + slope)
    else:
        activated = h * h * tl.where(h > 0, 1.0, square_below)
    all_rows_n, all_columns_m = first_n + tl.arange(0, ROWS), first_m + tl.arange(0, COLUMNS)
    place = all_rows_n.to(tl.int64)[:, None] * channels + all_columns_m[None, :]
    present = (all_rows_n < tokens)[:, None] & (all_columns_m < channels)[None, :]
    if FORM != _SQUARE:
        tl.store(hidden_NM + place, stored, mask=present)
    tl.store(activated_NM + place, activated.to(activated_NM.dtype.element_ty), mask=present)


@triton.jit
def _slope_kernel(
    gradient_NM,
    kept_NM,
    coefficients_4,
    square_below,
    hidden_gradient_NM,
    coefficient_gradients_4P,
    entries,
    FORM: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """gradient · f′(h), and this program's share of the gradients of the four coefficients."""
    program = tl.program_id(0)
    entry = program.to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    present = entry < entries
    gradient = tl.load(gradient_NM + entry, mask=present, other=0.0).to(tl.float32)
    kept = tl.load(kept_NM + entry, mask=present, other=0.0).to(tl.float32)
    h = tl.sqrt(kept) if FORM == _SQUARE else kept
    if FORM != _QUADRATIC:
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

    Without coefficients f is h² above zero and square_below · h² below. Where that is 0, x Wᵀ is left
    out: (0,).
    """
    (tokens, width), channels = x_ND.shape, weight_MD.shape[0]
    activated_NM = x_ND.new_empty((tokens, channels))
    form = _form(coefficients_4, square_below)
    hidden_NM = x_ND.new_empty(0) if form == _SQUARE.value else torch.empty_like(activated_NM)
    left_ND, right_MD, described = operands(x_ND, weight_MD, tiles)
    _projection_kernel[(triton.cdiv(tokens, tiles.rows) * triton.cdiv(channels, tiles.columns),)](
        left_ND,
        right_MD,
        coefficients_4,
        square_below,
        hidden_NM,
        activated_NM,
        tokens,
        channels,
        WIDTH=width,
        FORM=form,
        DESCRIBED=described,
        **tiles.launch,
    )
    return activated_NM, hidden_NM


def _form(coefficients_4: Tensor | None, square_below: float) -> int:
    if coefficients_4 is not None:
        return _QUADRATIC.value
    return _SQUARE.value if square_below == 0.0 else _LEAKY_SQUARE.value


#: Where torch knows the operators: a copy of this module, which an exported model brings, has its own.
_SPACE = __name__.replace(".", "_")


@torch.library.custom_op(f"{_SPACE}::activated_projection", mutates_args=())
def _project(
    x_ND: Tensor, weight_MD: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    return project_and_activate(x_ND, weight_MD, coefficients_4, square_below)


@_project.register_fake
def _(
    x_ND: Tensor, weight_MD: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    shape = (x_ND.shape[0], weight_MD.shape[0])
    square = _form(coefficients_4, square_below) == _SQUARE.value
    return x_ND.new_empty(shape), x_ND.new_empty(0 if square else shape)


@torch.library.custom_op(f"{_SPACE}::activation_slope", mutates_args=())
def _slope(
    gradient_NM: Tensor, kept_NM: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    """The gradient of h, and that of each coefficient by program, (4, P), empty without coefficients.

    kept: h, or f(h) where f is h² above zero and 0 below.
    """
    hidden_gradient_NM = torch.empty_like(kept_NM)
    programs = triton.cdiv(kept_NM.numel(), _ENTRIES)
    coefficient_gradients_4P = kept_NM.new_empty(
        (4, 0 if coefficients_4 is None else programs), dtype=torch.float32
    )
    _slope_kernel[(programs,)](
        gradient_NM,
        kept_NM,
        coefficients_4,
        square_below,
        hidden_gradient_NM,
        coefficient_gradients_4P,
        kept_NM.numel(),
        FORM=_form(coefficients_4, square_below),
        ENTRIES=_ENTRIES,
        num_warps=8,
    )
    return hidden_gradient_NM, coefficient_gradients_4P


@_slope.register_fake
def _(
    gradient_NM: Tensor, kept_NM: Tensor, coefficients_4: Tensor | None, square_below: float
) -> tuple[Tensor, Tensor]:
    programs = 0 if coefficients_4 is None else -(-kept_NM.numel() // _ENTRIES)
    return torch.empty_like(kept_NM), kept_NM.new_empty((4, programs), dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_ND, weight_MD, coefficients_4, ctx.square_below = inputs
    square = _form(coefficients_4, ctx.square_below) == _SQUARE.value
    ctx.save_for_backward(x_ND, weight_MD, coefficients_4, output[0] if square else output[1])
    # Otherwise x Wᵀ, which nothing else reads, would get a gradient of as many zeros.
    ctx.set_materialize_grads(False)


def _propagate(ctx: Any, gradient_NM: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x_ND, weight_MD, coefficients_4, kept_NM = ctx.saved_tensors
    hidden_gradient_NM, coefficient_gradients_4P = _slope(
        gradient_NM.contiguous(), kept_NM, coefficients_4, ctx.square_below
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
