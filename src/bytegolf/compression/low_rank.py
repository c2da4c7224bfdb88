"""A product of two small matrices as the artifact holds it: what low-rank corrections are made of.

R rows, C columns, K the rank, G groups. Integers of b bits are -2^(b-1) to 2^(b-1) - 1, one more below zero
than above; a scale for all of A, and one for each `group` consecutive values of B taken row after row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: What a file may ask for. Four are usual.
MAX_RANK = 16
MIN_FACTOR_BITS, MAX_FACTOR_BITS = 2, 7


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A B with A (R, K) and B (K, C): integers int8, scales float16, `a_scale` (1,) and `b_scales_G`."""

    a_RK: Tensor
    b_KC: Tensor
    a_scale: Tensor
    b_scales_G: Tensor
    a_bits: int
    b_bits: int
    group: int

    @property
    def rank(self) -> int:
        """K."""
        return self.a_RK.shape[1]

    def product(self) -> Tensor:
        """The matrix (R, C) in float32, to the same bits on every device."""
        a_RK = self.a_RK.to(torch.float32) * self.a_scale.to(torch.float32)
        b_KC = self.b_KC.to(torch.float32) * by_group(self.b_scales_G, self.b_KC.shape, self.group)
        product_RC = a_RK[:, :1] * b_KC[:1]
        for k in range(1, self.rank):
            product_RC = product_RC + a_RK[:, k : k + 1] * b_KC[k : k + 1]
        return product_RC


def groups_of(values: int, group: int) -> int:
    """How many scales so many values have; the last group may be shorter."""
    return -(-values // group)


def by_group(scales_G: Tensor, shape: torch.Size, group: int) -> Tensor:
    """Scales as factors, float32, of a matrix whose values are grouped row after row."""
    spread = scales_G.to(torch.float32).repeat_interleave(group)
    return spread[: shape.numel()].reshape(shape)
