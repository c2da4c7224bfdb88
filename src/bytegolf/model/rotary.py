"""Rotary position embedding (Su et al. 2021), for all or part of a head's dimensions."""

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotates dimension pairs (i, i + K/2) of a head of width K by position · base^(−2i/r), for i < r/2.

    With r < K the remaining pairs have frequency zero and stay position-free (partial RoPE). Which
    dimensions pair up is a convention; this one needs no concatenation, which the compiler handles badly.
    """

    frequencies: Tensor

    def __init__(self, head_width: int, rotated: int, base: float) -> None:
        super().__init__()
        exponents = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
        frequencies = torch.zeros(head_width // 2, dtype=torch.float64)
        frequencies[: rotated // 2] = base**-exponents
        # Not saved: it follows from the spec.
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin, each (T, 1, K) float32, to be used by `rotate`."""
        angles = positions_T[:, None].float() * self.frequencies[None, :].float()
        cos, sin = angles.cos(), angles.sin()
        return (
            torch.stack([cos, cos], dim=1).flatten(1)[:, None, :],
            torch.stack([sin, -sin], dim=1).flatten(1)[:, None, :],
        )


def rotate(x_BTHK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """(a, b) -> (a cos + b sin, b cos − a sin) on the pairs (i, i + K/2), in x's precision."""
    swapped = x_BTHK.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x_BTHK * cos_T1K, swapped, sin_T1K)
