"""The tile of a matrix product that the fused kernels have in common."""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-not-found]

from bytegolf.kernels.fused import Tiles


@triton.jit
def product_tile(
    left_NE,
    right_ME,
    first_n,
    first_m,
    rows,
    columns,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """left[first_n:] right[first_m:]ᵀ, (ROWS, COLUMNS) in float32, of contiguous matrices of WIDTH columns.

    `operands` gives left, right and DESCRIBED. What lies beyond the last row or column is finite.
    """
    if DESCRIBED:
        result = _described(left_NE, right_ME, first_n, first_m, WIDTH, ROWS, COLUMNS, DEPTH)
    else:
        # The last tiles repeat the last row and the last column instead of reading beyond the end.
        rows_n = tl.minimum(first_n + tl.arange(0, ROWS), rows - 1)
        columns_m = tl.minimum(first_m + tl.arange(0, COLUMNS), columns - 1)
        result = _addressed(left_NE, right_ME, rows_n, columns_m, WIDTH, ROWS, COLUMNS, DEPTH)
    return result


@triton.jit
def _addressed(
    left_NE,
    right_ME,
    rows_n,
    columns_m,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    left_rows = left_NE + rows_n.to(tl.int64)[:, None] * WIDTH
    right_rows = right_ME + columns_m.to(tl.int64)[None, :] * WIDTH
    for start in range(0, WIDTH, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        if WIDTH % DEPTH == 0:
            left = tl.load(left_rows + depth[None, :])
            right = tl.load(right_rows + depth[:, None])
        else:
            left = tl.load(left_rows + depth[None, :], mask=depth[None, :] < WIDTH, other=0.0)
            right = tl.load(right_rows + depth[:, None], mask=depth[:, None] < WIDTH, other=0.0)
        # "ieee": a product of float32 in float32, not in the 10 bits of tf32.
        result = tl.dot(left, right, result, input_precision="ieee")
    return result


@triton.jit
def _described(
    left_NE,
    right_ME,
    first_n,
    first_m,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, WIDTH, DEPTH):
        # Zeros come from beyond the end.
        left = left_NE.load([first_n, start])
        right = right_ME.load([first_m, start])
        result = tl.dot(left, right.T, result, input_precision="ieee")
    return result


def operands(
    left_NE: Tensor, right_ME: Tensor, tiles: Tiles
) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor, bool]:
    """What `product_tile` takes of two contiguous matrices, and whether these are descriptors."""
    described = tiles.descriptors and _aligned(left_NE) and _aligned(right_ME)
    if not described:
        return left_NE, right_ME, False
    left = TensorDescriptor.from_tensor(left_NE, [tiles.rows, tiles.depth])
    return left, TensorDescriptor.from_tensor(right_ME, [tiles.columns, tiles.depth]), True


def _aligned(x_NE: Tensor) -> bool:
    """Whether each row begins at a multiple of 16 bytes, as the accelerator demands."""
    return x_NE.data_ptr() % 16 == 0 and x_NE.shape[1] * x_NE.element_size() % 16 == 0
