"""The tile of a matrix product that the fused kernels have in common."""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]


@triton.jit
def product_tile(
    left_NE,
    right_ME,
    rows_n,
    columns_m,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """left[rows] right[columns]ᵀ, (ROWS, COLUMNS) in float32, of contiguous matrices of WIDTH columns.

    All rows and columns must exist: whoever works on the last tile repeats the last one.
    """
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
