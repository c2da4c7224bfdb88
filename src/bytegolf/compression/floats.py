"""Matrices that stay floats, in half precision or in eight bits.

R rows, C columns. Stored without a scale: e4m3 keeps three bits of mantissa from 2^-6 to 448 and has steps of
2^-9 below, which is about the error of its mantissa for weights of 0.02, as trained matrices have them. What
lies beyond a format's largest value becomes that value.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.compression.grid import finite


@dataclass(frozen=True, slots=True)
class Float16:
    """IEEE half precision: for a tied embedding, whose errors count twice, and where bytes are left."""

    @property
    def bits(self) -> int:
        return 16

    @property
    def rows_are_independent(self) -> bool:
        return True

    def quantize(self, weight_RC: Tensor) -> Tensor:
        """The matrix in float16. Raises `DivergedError` if a weight is not finite."""
        return _nearest(finite(weight_RC), torch.float16)

    def fake_quantize(self, weight_RC: Tensor) -> Tensor:
        """`quantize(w)` in float32, bit for bit in eager mode, with the gradient of the identity."""
        return _straight_through(weight_RC, torch.float16)

    def steps(self, weight_RC: Tensor) -> Tensor:
        """The distance (R, C) from each weight to the next float16, in float32."""
        return _spacing(weight_RC, torch.float16)

    def describe(self) -> str:
        """A short name for tables."""
        return "float16"


@dataclass(frozen=True, slots=True)
class Float8:
    """e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): sign, four bits of exponent, three of mantissa."""

    @property
    def bits(self) -> int:
        return 8

    @property
    def rows_are_independent(self) -> bool:
        return True

    def quantize(self, weight_RC: Tensor) -> Tensor:
        """The matrix in float8_e4m3fn. Raises `DivergedError` if a weight is not finite."""
        return _nearest(finite(weight_RC), torch.float8_e4m3fn)

    def fake_quantize(self, weight_RC: Tensor) -> Tensor:
        """`quantize(w)` in float32, bit for bit in eager mode, with the gradient of the identity."""
        return _straight_through(weight_RC, torch.float8_e4m3fn)

    def steps(self, weight_RC: Tensor) -> Tensor:
        """The distance (R, C) from each weight to the next e4m3 value, in float32."""
        return _spacing(weight_RC, torch.float8_e4m3fn)

    def describe(self) -> str:
        """A short name for tables."""
        return "float8 e4m3"


def _nearest(weight_RC: Tensor, kind: torch.dtype) -> Tensor:
    largest = torch.finfo(kind).max
    return weight_RC.clamp(-largest, largest).to(kind)


def _straight_through(weight_RC: Tensor, kind: torch.dtype) -> Tensor:
    weight_RC = weight_RC.to(torch.float32)
    detached_RC = weight_RC.detach()
    return _nearest(detached_RC, kind).to(torch.float32) + (weight_RC - detached_RC)


def _spacing(weight_RC: Tensor, kind: torch.dtype) -> Tensor:
    facts = torch.finfo(kind)
    magnitude_RC = weight_RC.detach().to(torch.float32).abs().clamp(facts.tiny, facts.max)
    _, exponent_RC = torch.frexp(magnitude_RC)
    # frexp counts from 1/2, eps is the spacing at 1; below `tiny` the spacing stays what it is there.
    return torch.ldexp(torch.full_like(magnitude_RC, facts.eps), exponent_RC - 1)
