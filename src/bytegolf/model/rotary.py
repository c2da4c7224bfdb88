"""Rotary position embedding (Su et al. 2021) for all or part of a head, and its scalings to longer rows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class NtkAware:
    """A larger base where rows are longer than those of training (NTK-aware scaling, bloc97 2023).

    For rows of up to n > `train_length` tokens the base becomes base · s^(r/(r−2)) with s = n / train_length
    and r rotated dimensions: the slowest pair turns as far over n tokens as it did over `train_length`, the
    fastest as before. Rows no longer than `train_length`, and so all of training, use the plain base.
    """

    train_length: int

    def __post_init__(self) -> None:
        if self.train_length < 1:
            raise RecipeError(
                f"train_length={self.train_length}; give the tokens of a training row, such as 1024"
            )

    def frequencies(self, rotated: int, base: float, length: int | None) -> Tensor:
        """Radians a token of each pair, (rotated / 2,) float64, in rows of up to `length` tokens."""
        # A single pair turns one radian a token at any base.
        if length is None or length <= self.train_length or rotated == 2:
            return plain_frequencies(rotated, base)
        return plain_frequencies(rotated, base * (length / self.train_length) ** (rotated / (rotated - 2)))


@dataclass(frozen=True)
class Yarn:
    """Slow pairs turn `factor` times slower, fast ones as ever (the ramp of YaRN, Peng et al. 2023).

    Pair i of r/2 has its frequency divided by 1 + ramp · (factor − 1), where ramp rises from 0 to 1 as 2i/r
    goes from `ramp_start` to 1. The same in training and evaluation, as in challenge entry #640 (whose
    YARN_MAX_LEN 2048 for rows of 1024 is factor 2); YaRN's temperature is left out, as there.
    """

    factor: float = 2.0
    ramp_start: float = 0.25

    def __post_init__(self) -> None:
        if self.factor < 1.0:
            raise RecipeError(f"factor={self.factor}; give 1 or more, 2 for rows of twice the length")
        if not 0.0 <= self.ramp_start < 1.0:
            raise RecipeError(f"ramp_start={self.ramp_start} is outside 0..1, 1 excluded")

    def frequencies(self, rotated: int, base: float, length: int | None) -> Tensor:
        """Radians a token of each pair, (rotated / 2,) float64, whatever the length of rows."""
        place = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
        ramp = ((place - self.ramp_start) / (1.0 - self.ramp_start)).clamp(0.0, 1.0)
        return plain_frequencies(rotated, base) / (1.0 + ramp * (self.factor - 1.0))


RotaryScaling = NtkAware | Yarn


def plain_frequencies(rotated: int, base: float) -> Tensor:
    """base^(−2i/r) for i < r/2, float64: radians a token of each pair."""
    exponents = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
    return base**-exponents


class Rotary(nn.Module):
    """Rotates dimension pairs (i, i + K/2) of a head of width K by position · base^(−2i/r), for i < r/2.

    With r < K the remaining pairs have frequency zero and stay position-free (partial RoPE). Which
    dimensions pair up is a convention; this one needs no concatenation, which the compiler handles badly.
    """

    frequencies: Tensor

    def __init__(
        self, head_width: int, rotated: int, base: float, scaling: RotaryScaling | None = None
    ) -> None:
        super().__init__()
        self.rotated, self.base, self.scaling = rotated, base, scaling
        # Not saved: it follows from the spec.
        self.register_buffer("frequencies", torch.zeros(head_width // 2), persistent=False)
        self.fit_rows(None)

    def fit_rows(self, length: int | None) -> None:
        """Prepares for rows of up to `length` tokens; None: for rows of the length trained with.

        One choice for a whole text: were the base to follow each row's own length, keys in a decoder's
        memory would be of another base than the next query. In place, so that compiled and recorded code
        follows.
        """
        if self.frequencies.is_meta:
            return
        if self.scaling is None:
            values = plain_frequencies(self.rotated, self.base)
        else:
            values = self.scaling.frequencies(self.rotated, self.base, length)
        with torch.no_grad():
            self.frequencies[: self.rotated // 2] = values.float()

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin, each (T, 1, K), float32 at least, to be used by `rotate`."""
        exact = torch.promote_types(self.frequencies.dtype, torch.float32)
        angles = positions_T[:, None].to(exact) * self.frequencies[None, :].to(exact)
        cos, sin = angles.cos(), angles.sin()
        return (
            torch.stack([cos, cos], dim=1).flatten(1)[:, None, :],
            torch.stack([sin, -sin], dim=1).flatten(1)[:, None, :],
        )


def rotate(x_BTHK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """(a, b) -> (a cos + b sin, b cos − a sin) on the pairs (i, i + K/2), in x's precision."""
    swapped = x_BTHK.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x_BTHK * cos_T1K, swapped, sin_T1K)
