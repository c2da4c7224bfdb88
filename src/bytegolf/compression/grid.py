"""Symmetric integer grids for weight matrices, one scale a row.

R rows (outputs), C columns (inputs). A grid of b bits has the integers -q..q with q = 2^(b-1) - 1; a weight
becomes w ≈ scale_row · integer, the integer found by rounding to nearest. Scales are rounded to what is
stored, a float16 with a short mantissa, *before* the integers are computed, so training and export see one
grid.

Since integers are entropy coded, bytes depend on the step relative to the row's spread, not on the number of
levels: about 2.047 - log2(scale / standard deviation) bits a weight for Gaussian rows.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bytegolf.compression.low_rank import LowRank
from bytegolf.compression.rotation import rotated
from bytegolf.errors import DivergedError, RecipeError

#: Scales keep this many mantissa bits (steps of 3 to 6 %), which saves about 9 bits a row when they are coded
#: and costs less than 0.001 bits a weight in error. Everything from 2^-20 up is then exact in float16.
SCALE_MANTISSA_BITS = 4
_DROPPED_BITS = 23 - SCALE_MANTISSA_BITS
#: The scale of an all-zero row, far below that of any trained row; and the largest that float16 holds.
SMALLEST_SCALE = 2.0**-20
LARGEST_SCALE = 63488.0
MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True, slots=True)
class AbsMax:
    """scale = max|w| / q: nothing is clipped, one outlier coarsens its whole row."""

    def scale(self, weight_RC: Tensor, limit: int) -> Tensor:
        """Storable scales (R,) in float32."""
        return round_scale_up(weight_RC.abs().amax(dim=1) / limit)


@dataclass(frozen=True, slots=True)
class StandardDeviations:
    """scale = k · std / q, the deviation taken about zero (root mean square).

    About the row's mean instead, a constant row would have no deviation and lose its value. A larger k is a
    coarser and smaller grid. Seen in the 16 MB challenge: 12.85 for 6 bits, 15 for 7 bits, 20 for 8 bits.
    """

    k: float

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1000:
            raise RecipeError(f"clip of {self.k:g} standard deviations; give a number above 0, up to 1000")

    def scale(self, weight_RC: Tensor, limit: int) -> Tensor:
        """Storable scales (R,) in float32."""
        deviation_R = weight_RC.square().mean(dim=1).sqrt()
        return round_scale(deviation_R * (self.k / limit))


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """scale = f · max|w| / q, with the f of `candidates` that gives each row the least squared error."""

    candidates: tuple[float, ...] = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.5, 0.4)

    def __post_init__(self) -> None:
        if not self.candidates or not all(0 < fraction <= 1 for fraction in self.candidates):
            raise RecipeError(f"clip candidates {self.candidates}; give one or more fractions in (0, 1]")

    def scale(self, weight_RC: Tensor, limit: int) -> Tensor:
        """Storable scales (R,) in float32."""
        largest_R = weight_RC.abs().amax(dim=1) / limit
        best_R = round_scale_up(largest_R * self.candidates[0])
        if len(self.candidates) == 1:
            return best_R
        least_R = _squared_error(weight_RC, best_R, limit)
        for fraction in self.candidates[1:]:
            scale_R = round_scale_up(largest_R * fraction)
            error_R = _squared_error(weight_RC, scale_R, limit)
            better_R = error_R < least_R
            best_R = torch.where(better_R, scale_R, best_R)
            least_R = torch.where(better_R, error_R, least_R)
        return best_R


@dataclass(frozen=True, slots=True)
class Quantile:
    """scale = quantile of |w| over the row / q, linear between order statistics.

    0.9999984 is that of the first entries of the 16 MB challenge: in rows of a few hundred weights it lies
    just below the largest. Their floor of 1/q on the scale, which leaves small rows with few levels or none,
    is not taken over.
    """

    share: float = 0.9999984

    def __post_init__(self) -> None:
        _check_shares((self.share,))

    def scale(self, weight_RC: Tensor, limit: int) -> Tensor:
        """Storable scales (R,) in float32."""
        return round_scale_up(_quantiles(weight_RC, (self.share,))[0] / limit)


@dataclass(frozen=True, slots=True)
class BestQuantile:
    """Of the quantiles `shares`, the one with the least squared error: GPTQ-lite of the 16 MB challenge.

    `best_of` "row" chooses for every row, as its description says; "matrix" takes one of them for the whole
    matrix, as its code did.
    """

    shares: tuple[float, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    best_of: Literal["row", "matrix"] = "row"

    def __post_init__(self) -> None:
        _check_shares(self.shares)

    def scale(self, weight_RC: Tensor, limit: int) -> Tensor:
        """Storable scales (R,) in float32."""
        scale_QR = torch.stack([round_scale_up(q_R / limit) for q_R in _quantiles(weight_RC, self.shares)])
        error_QR = torch.stack([_squared_error(weight_RC, scale_R, limit) for scale_R in scale_QR])
        if self.best_of == "matrix":
            error_QR = error_QR.sum(dim=1, keepdim=True).expand_as(scale_QR)
        return scale_QR.gather(0, error_QR.argmin(dim=0, keepdim=True))[0]


Clip = AbsMax | StandardDeviations | LeastSquares | Quantile | BestQuantile


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A matrix as integers and scales: ints (R, C) int8 within ±`limit`, scales float16.

    `group` None: scales (R,), one a row. Otherwise scales (R, G), one for each `group` consecutive columns of
    a row, of which the last group may have fewer. With `bits` 1 the integers are -1 and 1, never 0. Where
    `rotated`, integers times scales stand for W Q (see `compression.rotation`), and so does a `correction`.
    """

    ints: Tensor
    scales: Tensor
    bits: int
    group: int | None = None
    rotated: bool = False
    correction: LowRank | None = None

    @property
    def limit(self) -> int:
        """The largest integer."""
        return limit_of(self.bits)

    def dequantize(self) -> Tensor:
        """The matrix (R, C) in float32."""
        values_RC = self.on_axes()
        return rotated(values_RC) if self.rotated else values_RC

    def on_axes(self) -> Tensor:
        """The same along the axes on which it was rounded: W Q where `rotated`."""
        scales = self.scales.to(torch.float32)
        grid_RC = self.ints.to(torch.float32) * expand_groups(scales, self.ints.shape[1], self.group)
        return grid_RC if self.correction is None else grid_RC + self.correction.product()


def limit_of(bits: int) -> int:
    """The largest integer of so many bits: 1 for a single one, otherwise 2^(bits-1) - 1."""
    return max(1, 2 ** (bits - 1) - 1)


def expand_groups(scales: Tensor, columns: int, group: int | None) -> Tensor:
    """Scales (R,) or (R, G) as factors that a matrix (R, C) of so many columns is multiplied by."""
    if group is None:
        return scales[:, None]
    return scales.repeat_interleave(group, dim=1)[:, :columns]


@dataclass(frozen=True, slots=True)
class Grid:
    """`bits` and the rule that chooses each row's scale; where `rotated`, both see W Q instead of W."""

    bits: int = 8
    clip: Clip = field(default_factory=LeastSquares)
    rotated: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise RecipeError(f"grid of {self.bits} bits; give {MIN_BITS} to {MAX_BITS}")

    @property
    def limit(self) -> int:
        """The largest integer of the grid."""
        return limit_of(self.bits)

    @property
    def rows_are_independent(self) -> bool:
        """Whether a row's values depend on that row alone, so that matrices can be joined into one."""
        return not (isinstance(self.clip, BestQuantile) and self.clip.best_of == "matrix")

    def quantize(self, weight_RC: Tensor) -> Quantized:
        """The nearest grid point of each weight. Raises `DivergedError` if a weight is not finite."""
        weight_RC = self._turned(finite(weight_RC))
        scale_R = self.clip.scale(weight_RC, self.limit)
        ints_RC = _round_to_grid(weight_RC, scale_R, self.limit).to(torch.int8)
        return Quantized(ints_RC, scale_R.to(torch.float16), self.bits, rotated=self.rotated)

    def fake_quantize(self, weight_RC: Tensor) -> Tensor:
        """The value `quantize(w).dequantize()`, bit for bit in eager mode, with the gradient of the identity.

        Compiled code may sum a row in another order or divide with another last bit; a scale or an integer
        that lies exactly between two values can then fall to the other side.
        """
        weight_RC = weight_RC.to(torch.float32)
        detached_RC = weight_RC.detach()
        turned_RC = self._turned(detached_RC)
        scale_R = self.clip.scale(turned_RC, self.limit)
        grid_RC = self._turned(_round_to_grid(turned_RC, scale_R, self.limit) * scale_R[:, None])
        # w - stop(w) is exactly zero, so unlike w + stop(grid - w) this adds no rounding of its own.
        return grid_RC + (weight_RC - detached_RC)

    def steps(self, weight_RC: Tensor) -> Tensor:
        """The distance (R, 1) between neighbouring values of a row's grid, float32; of W Q if `rotated`."""
        return self.clip.scale(self._turned(weight_RC.detach().to(torch.float32)), self.limit)[:, None]

    def describe(self) -> str:
        """A short name for tables, such as `6 bits, 12.85 std`."""
        match self.clip:
            case AbsMax():
                rule = "max"
            case StandardDeviations(k):
                rule = f"{k:g} std"
            case LeastSquares():
                rule = "least squares"
            case Quantile(share):
                rule = f"quantile {share:.7g}"
            case BestQuantile(best_of=best_of):
                rule = f"best quantile of each {best_of}"
        return f"{self.bits} bits, {rule}" + (", rotated" if self.rotated else "")

    def _turned(self, weight_RC: Tensor) -> Tensor:
        return rotated(weight_RC) if self.rotated else weight_RC


def finite(weight_RC: Tensor) -> Tensor:
    """The weights, detached, in float32. Raises `DivergedError` if one is not finite."""
    weight_RC = weight_RC.detach().to(torch.float32)
    if not bool(torch.isfinite(weight_RC).all()):
        raise DivergedError(
            "a weight matrix holds NaN or infinity and cannot be quantized; use an earlier checkpoint"
        )
    return weight_RC


def round_scale(values: Tensor) -> Tensor:
    """Positive float32 values rounded to the nearest storable scale: 4 mantissa bits, 2^-20 to 63488.

    Written on the bit pattern, not as a cast to float16 and back, because inductor removes such pairs of
    casts: compiled training would then see scales that the file cannot hold.
    """
    return _keep_mantissa(values, 1 << (_DROPPED_BITS - 1))


def round_scale_up(values: Tensor) -> Tensor:
    """The same, rounded to the next storable scale above, so that the largest weight stays on the grid."""
    return _keep_mantissa(values, (1 << _DROPPED_BITS) - 1)


def _keep_mantissa(values: Tensor, carry: int) -> Tensor:
    pattern = values.clamp(SMALLEST_SCALE, LARGEST_SCALE).view(torch.int32)
    return (((pattern + carry) >> _DROPPED_BITS) << _DROPPED_BITS).view(torch.float32)


def _round_to_grid(weight_RC: Tensor, scale_R: Tensor, limit: int) -> Tensor:
    return torch.round(weight_RC / scale_R[:, None]).clamp(-limit, limit)


def _squared_error(weight_RC: Tensor, scale_R: Tensor, limit: int) -> Tensor:
    grid_RC = _round_to_grid(weight_RC, scale_R, limit) * scale_R[:, None]
    return (weight_RC - grid_RC).square().sum(dim=1)


def _quantiles(weight_RC: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Quantiles (R,) of each row's magnitudes, from the few largest of them instead of a sorted matrix."""
    places = [share * (weight_RC.shape[1] - 1) for share in shares]
    least = math.floor(min(places))
    top_RK = weight_RC.abs().topk(weight_RC.shape[1] - least, dim=1).values.flip(1)
    quantiles = []
    for place in places:
        below = math.floor(place)
        lower_R, upper_R = top_RK[:, below - least], top_RK[:, math.ceil(place) - least]
        quantiles.append(lower_R + (place - below) * (upper_R - lower_R))
    return quantiles


def _check_shares(shares: tuple[float, ...]) -> None:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise RecipeError(f"clip at quantiles {shares}; give one or more shares in (0, 1]")
