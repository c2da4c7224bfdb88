"""What quantization lost of a few matrices, put back as a product of two thin ones.

    E = W - grid,   E ≈ A B,   W ≈ grid + A B

R rows, C columns, K the rank. A are the first K left singular vectors of E; where the mean product of inputs
H = L Lᵀ is known, those of E L, so that the error of the outputs falls most. A is rounded to `a_bits`, B to
`b_bits`. LQER (Zhang et al. 2024, arXiv 2402.02446), in the asymmetric form of the 16 MB challenge (its pull
requests 1797 and 2143). There A carries the singular values, under one scale; here B does, whose groups have
scales of their own, and B is fitted to A as it was rounded. Of a rotated matrix E is the rotated error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bytegolf.compression.grid import Quantized, round_scale
from bytegolf.compression.low_rank import (
    MAX_FACTOR_BITS,
    MAX_RANK,
    MIN_FACTOR_BITS,
    LowRank,
    by_group,
    groups_of,
)
from bytegolf.compression.rotation import rotated
from bytegolf.compression.storage import Stored
from bytegolf.errors import RecipeError

#: Share of a Hessian's mean diagonal that is added to its diagonal before it is factored.
_DAMPING = 0.01


@dataclass(frozen=True, slots=True)
class LowRankCorrection:
    """Corrects the `matrices` with the largest error by a product of rank `rank`.

    a_bits, b_bits: of the factors' integers; `group` values of B share a scale. largest: "loss" ranks errors
    by the rise of the loss that they predict, "norm" by their Frobenius norm, as the challenge did.
    """

    rank: int = 4
    matrices: int = 3
    a_bits: int = 2
    b_bits: int = 4
    group: int = 64
    largest: Literal["loss", "norm"] = "loss"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise RecipeError(f"correction.rank is {self.rank}; give 1 to {MAX_RANK}")
        if self.matrices < 1:
            raise RecipeError(f"correction.matrices is {self.matrices}; give 1 or more, or no correction")
        for name, bits in (("a_bits", self.a_bits), ("b_bits", self.b_bits)):
            if not MIN_FACTOR_BITS <= bits <= MAX_FACTOR_BITS:
                raise RecipeError(f"correction.{name} is {bits}; give {MIN_FACTOR_BITS} to {MAX_FACTOR_BITS}")
        if self.group < 1:
            raise RecipeError(f"correction.group is {self.group}; give a number of values, such as 64")


def correct_largest(
    parameters: Mapping[str, Tensor],
    compressed: Mapping[str, Stored],
    spec: LowRankCorrection,
    *,
    hessians: Mapping[str, Tensor] | None = None,
    sensitivities: Mapping[str, float] | None = None,
) -> dict[str, Stored]:
    """The compressed model with the matrices of the largest error corrected, where that makes it smaller.

    `hessians`: the mean of x xᵀ over a matrix's inputs (C, C); a matrix without one counts by ‖E‖².
    `sensitivities`: see `sensitivity.fisher_sensitivities`; 1 where there are none.
    """
    by_loss = spec.largest == "loss"
    hessians = hessians if hessians is not None and by_loss else {}
    errors = {}
    for name, matrix in compressed.items():
        if isinstance(matrix, Quantized):
            error_RC = error_of(parameters[name], matrix)
            weight = sensitivities.get(name, 0.0) if sensitivities is not None and by_loss else 1.0
            errors[name] = weight * hessian_error(error_RC, _axes_hessian(hessians.get(name), matrix))
    result = dict(compressed)
    for name in sorted(errors, key=errors.__getitem__, reverse=True)[: spec.matrices]:
        matrix = compressed[name]
        assert isinstance(matrix, Quantized)
        result[name] = corrected(parameters[name], matrix, spec, hessians.get(name))
    return result


def corrected(
    weight_RC: Tensor, matrix: Quantized, spec: LowRankCorrection, hessian_CC: Tensor | None = None
) -> Quantized:
    """The matrix with its correction, or as it was if that would not make its error smaller."""
    error_RC = error_of(weight_RC, replace(matrix, correction=None))
    hessian_CC = _axes_hessian(hessian_CC, matrix)
    factors = _factors(error_RC, spec, hessian_CC)
    left_RC = error_RC - factors.product()
    better = left_RC.square().sum() < error_RC.square().sum()
    if hessian_CC is not None:
        better = hessian_error(left_RC, hessian_CC) < hessian_error(error_RC, hessian_CC)
    return replace(matrix, correction=factors) if bool(better) else matrix


def error_of(weight_RC: Tensor, matrix: Quantized) -> Tensor:
    """What the stored matrix lacks of the weight (R, C), float32 on the CPU, along its own (rotated) axes."""
    weight_RC = weight_RC.detach().to("cpu", torch.float32)
    turned_RC = rotated(weight_RC) if matrix.rotated else weight_RC
    return turned_RC - matrix.on_axes().cpu()


def hessian_error(error_RC: Tensor, hessian_CC: Tensor | None) -> float:
    """tr(E H Eᵀ) over the mean of H's diagonal: ‖E‖² where H is a multiple of the identity, or unknown."""
    if hessian_CC is None:
        return float(error_RC.square().sum())
    mean = float(hessian_CC.diagonal().mean())
    return float(((error_RC @ hessian_CC) * error_RC).sum()) / mean if mean > 0 else 0.0


def correction_bytes(shape: tuple[int, int], spec: LowRankCorrection) -> int:
    """About what the correction of a matrix of this shape takes in a file."""
    rows, columns = shape
    values = spec.rank * columns
    bits = spec.rank * rows * spec.a_bits + values * spec.b_bits + 16 * groups_of(values, spec.group)
    return bits // 8 + 32


def _axes_hessian(hessian_CC: Tensor | None, matrix: Quantized) -> Tensor | None:
    """Q H Q of a rotated matrix, float32 on the CPU."""
    if hessian_CC is None:
        return None
    hessian_CC = hessian_CC.detach().to("cpu", torch.float32)
    return rotated(rotated(hessian_CC).T) if matrix.rotated else hessian_CC


def _factors(error_RC: Tensor, spec: LowRankCorrection, hessian_CC: Tensor | None) -> LowRank:
    rank = min(spec.rank, *error_RC.shape)
    a_RK = _left_vectors(error_RC, rank, hessian_CC)
    a_scale, a_ints_RK = _rounded(a_RK, spec.a_bits, a_RK.numel())
    rounded_RK = a_ints_RK.to(torch.float32) * a_scale
    b_KC = torch.linalg.pinv(rounded_RK) @ error_RC
    group = min(spec.group, b_KC.numel())
    b_scales_G, b_ints_KC = _rounded(b_KC, spec.b_bits, group)
    return LowRank(a_ints_RK, b_ints_KC, a_scale.half(), b_scales_G.half(), spec.a_bits, spec.b_bits, group)


def _left_vectors(error_RC: Tensor, rank: int, hessian_CC: Tensor | None) -> Tensor:
    """The first singular vectors (R, K) of E L, the largest entry of each negative: there is one more integer
    on that side, and the sign of a vector is free.
    """
    wide_RC = error_RC.to(torch.float64)
    if hessian_CC is not None:
        damped_CC = hessian_CC.to(torch.float64)
        mean = damped_CC.diagonal().mean()
        damped_CC = damped_CC + _DAMPING * mean * torch.eye(len(damped_CC), dtype=torch.float64)
        lower_CC, failed = torch.linalg.cholesky_ex(damped_CC)
        wide_RC = wide_RC if int(failed) else wide_RC @ lower_CC
    # Through the smaller of both Gram matrices, which takes a fraction of the time of a decomposition of E.
    if wide_RC.shape[0] <= wide_RC.shape[1]:
        a_RK = torch.linalg.eigh(wide_RC @ wide_RC.T).eigenvectors[:, -rank:].flip(1)
    else:
        v_CK = torch.linalg.eigh(wide_RC.T @ wide_RC).eigenvectors[:, -rank:].flip(1)
        a_RK = torch.nn.functional.normalize(wide_RC @ v_CK, dim=0)
    largest_K = a_RK.gather(0, a_RK.abs().argmax(dim=0, keepdim=True))
    return torch.where(largest_K > 0, -a_RK, a_RK).to(torch.float32)


def _rounded(values: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Scales (G,), the largest magnitude of a group over 2^(bits-1) - 1/2, and the integers."""
    half = 2 ** (bits - 1)
    flat = values.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % group))
    scales_G = round_scale(padded.reshape(-1, group).abs().amax(dim=1) / (half - 0.5))
    ints = torch.round(values / by_group(scales_G, values.shape, group)).clamp(-half, half - 1)
    return scales_G, ints.to(torch.int8)
