"""GPTQ: rounds a matrix column by column, and lets the columns to come make up for each error.

Shapes: N matrices, R rows (outputs), C columns (inputs), K columns of a block. Weights are handled
transposed, (N, C, R), so that a column lies in one piece of memory.

With H the mean of x xᵀ over the inputs and U the upper Cholesky factor of its inverse, H⁻¹ = Uᵀ U, each
column j in turn becomes its nearest grid point, and its error goes into the columns not yet rounded
(Frantar et al. 2022, arXiv 2210.17323):

    w_k -= (w_j - grid_j) · U_jk / U_jj    for k > j

which is the change of w_k that keeps ‖(W - grid) x‖² least.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.compression.grid import Grid, Quantized, finite
from bytegolf.compression.rotation import rotated
from bytegolf.errors import DivergedError, RecipeError

#: Damping beyond which a Hessian is given up: what still has a negative eigenvalue is no Hessian at all.
_MOST_DAMPING = 10.0


@dataclass(frozen=True, slots=True)
class Gptq:
    """How matrices on integer grids are rounded once training is over.

    damping: share of the Hessian's mean diagonal that is added to the diagonal, ten times as much where it
    has no Cholesky factor. block: columns whose errors reach the rest together. act_order: columns with the
    largest inputs first. batches, rows: of `calibration` text that Hessians are gathered on, each row as long
    as in training. importance: λ; the clip of a row grows by the factor 1 + λ (importance - 1), where its
    importance is Σ_j |W_ij| H_jj over the mean of all rows. calibration: "training" text, or text "generated"
    by the model itself.
    """

    damping: float = 0.01
    block: int = 128
    act_order: bool = True
    batches: int = 16
    rows: int = 16
    importance: float = 0.0
    calibration: Literal["training", "generated"] = "training"

    def __post_init__(self) -> None:
        if not 0 < self.damping < float("inf"):
            raise RecipeError(f"gptq.damping is {self.damping:g}; give a number above 0, such as 0.01")
        if self.block < 1:
            raise RecipeError(f"gptq.block is {self.block}; give a number of columns, such as 128")
        if self.batches < 1 or self.rows < 1:
            raise RecipeError(f"gptq has {self.batches} batches of {self.rows} rows; give 1 or more of both")
        if not 0 <= self.importance < 1:
            raise RecipeError(f"gptq.importance is {self.importance:g}; give a share in [0, 1), 0 for none")


def gptq_quantize(weight_RC: Tensor, hessian_CC: Tensor, grid: Grid, spec: Gptq) -> Quantized:
    """The matrix on its grid, on the weight's device; the work is done where the Hessian is.

    `hessian_CC`: the mean of x xᵀ (see `calibration.gather_hessians`). Scales are those of the grid, from the
    weights as they came; with the identity as Hessian so are the integers. A weight of exactly zero, as
    pruning leaves them, stays zero, and a column whose input never was anything else becomes zero. On a
    rotated grid all of this is said of W Q and its inputs Q x, whose Hessian is Q H Q.
    Raises `DivergedError` if a number is not finite.
    """
    return gptq_quantize_alike([weight_RC], [hessian_CC], grid, spec)[0]


def gptq_quantize_alike(
    weights: Sequence[Tensor], hessians: Sequence[Tensor], grid: Grid, spec: Gptq
) -> list[Quantized]:
    """`gptq_quantize` of several matrices of one shape at once, which keeps a GPU busy.

    Each comes out as alone, but for the last bits of sums.
    """
    device = hessians[0].device
    weight_NRC = torch.stack([finite(weight).to(device) for weight in weights])
    hessian_NCC = torch.stack([hessian.to(torch.float64) for hessian in hessians])
    if not bool(torch.isfinite(hessian_NCC).all()):
        raise DivergedError("inputs of a matrix are NaN or infinite; use an earlier checkpoint")
    if grid.rotated:
        weight_NRC, hessian_NCC = rotated(weight_NRC), rotated(rotated(hessian_NCC).mT)
    scale_NR = torch.stack(
        [
            grid.clip.scale(weight_RC * _clip_factors(weight_RC, hessian_CC, spec.importance), grid.limit)
            for weight_RC, hessian_CC in zip(weight_NRC, hessian_NCC, strict=True)
        ]
    )
    ints_NRC = _solve(weight_NRC, hessian_NCC, scale_NR, grid.limit, spec)
    return [
        Quantized(
            ints_RC.to(weight.device),
            scale_R.to(weight.device, torch.float16),
            grid.bits,
            rotated=grid.rotated,
        )
        for ints_RC, scale_R, weight in zip(ints_NRC, scale_NR, weights, strict=True)
    ]


def _clip_factors(weight_RC: Tensor, hessian_CC: Tensor, importance: float) -> Tensor:
    """What each row is multiplied by before its scale is taken, (R, 1): the scale then grows as much."""
    importance_R = weight_RC.abs() @ hessian_CC.diagonal().to(weight_RC.dtype)
    mean = importance_R.mean()
    if not importance or not bool(mean > 0):
        return torch.ones_like(weight_RC[:, :1])
    return (1.0 + importance * (importance_R / mean - 1.0))[:, None]


def _solve(weight_NRC: Tensor, hessian_NCC: Tensor, scale_NR: Tensor, limit: int, spec: Gptq) -> Tensor:
    """Integers (N, R, C), int8."""
    dead_NC = hessian_NCC.diagonal(dim1=1, dim2=2) == 0
    weight_NCR = weight_NRC.mT.masked_fill(dead_NC[:, :, None], 0.0)
    order_NC, shares_NCC = error_shares(hessian_NCC, spec)
    ints_NCR = _round_in_turn(
        _rows(weight_NCR, order_NC), shares_NCC.to(torch.float32), scale_NR, limit, spec.block
    )
    return _rows(ints_NCR, order_NC.argsort(dim=1)).mT.contiguous()


def error_shares(hessian_NCC: Tensor, spec: Gptq) -> tuple[Tensor, Tensor]:
    """The order (N, C) in which columns are rounded, and in that order which share of each column's error
    every later one takes, (N, C, C) with 1 on the diagonal. Hessians are float64.

    Raises `DivergedError` for what is no Hessian.
    """
    diagonal_NC = hessian_NCC.diagonal(dim1=1, dim2=2)
    # Columns without inputs have no part in anything; 1 keeps them from being divided by.
    hessian_NCC = hessian_NCC + torch.diag_embed((diagonal_NC == 0).to(hessian_NCC.dtype))
    # Columns stay in place where the order is that of equal numbers.
    ranked_NC = diagonal_NC if spec.act_order else torch.zeros_like(diagonal_NC)
    order_NC = ranked_NC.sort(dim=1, descending=True, stable=True).indices
    return order_NC, _factored(in_order(hessian_NCC, order_NC), spec.damping)


def in_order(hessian_NCC: Tensor, order_NC: Tensor) -> Tensor:
    """Hessians with rows and columns in another order."""
    return _rows(_rows(hessian_NCC, order_NC).mT, order_NC)


def _rows(matrix_NCX: Tensor, order_NC: Tensor) -> Tensor:
    return matrix_NCX.gather(1, order_NC[:, :, None].expand_as(matrix_NCX))


def _factored(hessian_NCC: Tensor, damping: float) -> Tensor:
    """U_jk / U_jj of the upper Cholesky factor U of each inverse: which share of error j goes to column k.

    H with rows and columns in reverse order is L Lᵀ; in the right order again, L⁻¹ is U. The inverse itself,
    which loses digits, is never formed.
    """
    mean_N = hessian_NCC.diagonal(dim1=1, dim2=2).mean(dim=1)
    damping_N = torch.full_like(mean_N, damping)
    identity_CC = torch.eye(hessian_NCC.shape[1], dtype=hessian_NCC.dtype, device=hessian_NCC.device)
    while True:
        damped_NCC = hessian_NCC + (damping_N * mean_N)[:, None, None] * identity_CC
        lower_NCC, failed_N = torch.linalg.cholesky_ex(damped_NCC.flip(1, 2))
        if not bool(failed_N.any()):
            upper_NCC = torch.linalg.solve_triangular(lower_NCC, identity_CC, upper=False).flip(1, 2)
            return upper_NCC / upper_NCC.diagonal(dim1=1, dim2=2)[:, :, None]
        damping_N = torch.where(failed_N > 0, damping_N * 10.0, damping_N)
        if float(damping_N.max()) > _MOST_DAMPING:
            raise DivergedError(
                "a matrix of mean products of inputs is not positive; gather it on other text"
            )


def _round_in_turn(
    weight_NCR: Tensor, shares_NCC: Tensor, scale_NR: Tensor, limit: int, block: int
) -> Tensor:
    """Integers (N, C, R), int8. Overwrites the weights."""
    columns = weight_NCR.shape[1]
    ints_NCR = torch.empty_like(weight_NCR, dtype=torch.int8)
    kept_NCR = (weight_NCR != 0).to(weight_NCR.dtype)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        block_NKR = weight_NCR[:, first:last]
        for j in range(first, last):
            column_NR = weight_NCR[:, j]
            rounded_NR = torch.round(column_NR / scale_NR).clamp(-limit, limit) * kept_NCR[:, j]
            ints_NCR[:, j] = rounded_NR
            # The column's own place holds its error from now on, for the columns behind the block.
            column_NR.sub_(rounded_NR * scale_NR)
            later_NKR = block_NKR[:, j - first + 1 :]
            later_NKR.addcmul_(shares_NCC[:, j, j + 1 : last, None], column_NR[:, None, :], value=-1.0)
        if last < columns:
            rest_NCR = weight_NCR[:, last:]
            rest_NCR.baddbmm_(shares_NCC[:, first:last, last:].mT, block_NKR, alpha=-1.0)
    return ints_NCR
