"""Whether seeds tell two ways of training apart: Welch's t-test over the scores of their runs.

A score is a loss, such as nats per token: lower is better. Only the standard library is needed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: What the 16 MB challenge asks of a new record: by how many nats a token, and with a p-value below what.
MARGIN = 0.005
LEVEL = 0.01
_PRECISION = 1e-15
_MOST_TERMS = 100_000


@dataclass(frozen=True)
class Sample:
    """The scores of one side, a value a seed, all finite; at least one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.values, "a side without scores"
        assert all(math.isfinite(value) for value in self.values), "a score that is no number"

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation, with n − 1 below the sum; None of a single value."""
        # The exact sums of `statistics` make it 0 for equal values, which rounding would hide.
        return statistics.stdev(self.values) if self.count > 1 else None


@dataclass(frozen=True)
class Welch:
    """A t-test between samples whose variances may differ.

    t, p: for "the candidate is lower by at least the margin"; p is the probability of a t as large or
    larger if the true difference is just the margin. t_plain, p_two_sided: for "there is any difference".
    """

    standard_error: float
    degrees: float
    t: float
    p: float
    t_plain: float
    p_two_sided: float


@dataclass(frozen=True)
class Comparison:
    """Two samples and what they say. welch: None where no test is possible; `without` is why."""

    candidate: Sample
    reference: Sample
    margin: float
    welch: Welch | None
    without: str = ""

    @property
    def difference(self) -> float:
        """How much lower the candidate's mean is; negative where it is higher."""
        return self.reference.mean - self.candidate.mean

    @property
    def verdict(self) -> str:
        """One sentence."""
        margin, welch = f"{self.margin:g} nats per token", self.welch
        if welch is None:
            return f"No verdict: {self.without}."
        if welch.p < LEVEL:
            return f"Better by at least {margin}: {written(welch.p)}, below {LEVEL}."
        if welch.p_two_sided >= LEVEL:
            return (
                f"Not told apart: {written(welch.p)} for better by at least {margin}, "
                f"{written(welch.p_two_sided)} for any difference, neither below {LEVEL}."
            )
        if self.difference > 0:
            return f"Better, but not by at least {margin}: for that {written(welch.p)}, not below {LEVEL}."
        return f"Worse: {written(welch.p_two_sided)} for any difference, below {LEVEL}."


def compare(candidate: Sequence[float], reference: Sequence[float], margin: float = MARGIN) -> Comparison:
    """Welch's test of the candidate's scores against the reference's.

        t = (mean of reference − mean of candidate − margin) / √(s₁²/n₁ + s₂²/n₂)
        degrees = (s₁²/n₁ + s₂²/n₂)² / ((s₁²/n₁)²/(n₁−1) + (s₂²/n₂)²/(n₂−1))

    Source: B. L. Welch 1947, Biometrika 34, 28-35; the degrees of freedom also Satterthwaite 1946. It takes
    scores of different seeds as independent and normally distributed.
    """
    one, two = Sample(tuple(candidate)), Sample(tuple(reference))
    if one.deviation is None or two.deviation is None:
        without = f"a p-value needs two seeds a side, here are {one.count} and {two.count}"
        return Comparison(one, two, margin, None, without)
    errors = one.deviation / math.sqrt(one.count), two.deviation / math.sqrt(two.count)
    standard_error = math.hypot(*errors)
    if standard_error == 0.0:
        without = "the seeds of each side score the same, so there is no scatter to test against"
        return Comparison(one, two, margin, None, without)
    # Shares of the variance instead of variances, whose squares could underflow.
    shares = [(error / standard_error) ** 2 for error in errors]
    degrees = 1.0 / (shares[0] ** 2 / (one.count - 1) + shares[1] ** 2 / (two.count - 1))
    difference = two.mean - one.mean
    t, plain = (difference - margin) / standard_error, difference / standard_error
    p, p_two_sided = student_tail(t, degrees), min(1.0, 2.0 * student_tail(abs(plain), degrees))
    return Comparison(one, two, margin, Welch(standard_error, degrees, t, p, plain, p_two_sided))


def student_tail(t: float, degrees: float) -> float:
    """P(T ≥ t) under Student's distribution with `degrees` > 0 of freedom, not necessarily a whole number.

    ½ I_x(degrees/2, ½) with x = degrees / (degrees + t²) for t ≥ 0: Abramowitz & Stegun 26.7.1 and 26.5.27.
    Accurate to about 1e-8 of its value up to a million degrees.
    """
    assert degrees > 0, f"no distribution has {degrees} degrees"
    assert not math.isnan(t), "t is no number"
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    root = math.sqrt(degrees)
    length = math.hypot(t, root)
    half = 0.5 * _incomplete_beta(0.5 * degrees, 0.5, (root / length) ** 2, (t / length) ** 2)
    return half if t >= 0 else 1.0 - half


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """The regularized incomplete beta function I_x(a, b); y = 1 − x is asked for to keep its digits.

    From the side where the continued fraction converges fast: I_x(a, b) = 1 − I_y(b, a), NIST DLMF 8.17.4.
    """
    if x <= (a + 1.0) / (a + b + 2.0):
        return _continued_fraction(a, b, x, y)
    return 1.0 - _continued_fraction(b, a, y, x)


def _continued_fraction(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b) by 1/(1 + d₁/(1 + d₂/(1 + …))), NIST DLMF 8.17.22, evaluated as in DLMF 3.10(iii) (Steed)."""
    if x <= 0.0 or y <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    factor = math.exp(a * math.log(x) + b * math.log(y) - log_beta) / a
    inverse = step = value = 1.0
    for term in range(1, _MOST_TERMS):
        m, odd = divmod(term, 2)
        if odd:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        inverse = 1.0 / (1.0 + d * inverse)
        step *= inverse - 1.0
        value += step
        if abs(step) <= _PRECISION * abs(value):
            return min(1.0, factor * value)
    raise AssertionError(f"I_{x}({a}, {b}) does not converge")


def written(p: float) -> str:
    """A p-value to two digits, and never as 0."""
    return f"p = {p:.2g}" if p >= 1e-6 else "p < 1e-6"
