"""Student's distribution against published tables and laws, and Welch's test against worked examples."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bytegolf.evaluation.significance import Sample, compare, student_tail, written

# Critical values as printed: Abramowitz & Stegun, table 26.10, and every textbook's appendix.
T_TABLE = {
    1: {0.25: 1.000, 0.1: 3.078, 0.05: 6.314, 0.025: 12.706, 0.01: 31.821, 0.005: 63.657, 0.0005: 636.619},
    2: {0.25: 0.816, 0.1: 1.886, 0.05: 2.920, 0.025: 4.303, 0.01: 6.965, 0.005: 9.925, 0.0005: 31.599},
    3: {0.25: 0.765, 0.1: 1.638, 0.05: 2.353, 0.025: 3.182, 0.01: 4.541, 0.005: 5.841, 0.0005: 12.924},
    4: {0.25: 0.741, 0.1: 1.533, 0.05: 2.132, 0.025: 2.776, 0.01: 3.747, 0.005: 4.604, 0.0005: 8.610},
    5: {0.25: 0.727, 0.1: 1.476, 0.05: 2.015, 0.025: 2.571, 0.01: 3.365, 0.005: 4.032, 0.0005: 6.869},
    10: {0.25: 0.700, 0.1: 1.372, 0.05: 1.812, 0.025: 2.228, 0.01: 2.764, 0.005: 3.169, 0.0005: 4.587},
    30: {0.25: 0.683, 0.1: 1.310, 0.05: 1.697, 0.025: 2.042, 0.01: 2.457, 0.005: 2.750, 0.0005: 3.646},
    120: {0.25: 0.677, 0.1: 1.289, 0.05: 1.658, 0.025: 1.980, 0.01: 2.358, 0.005: 2.617, 0.0005: 3.373},
}
degrees = st.floats(0.5, 1e5)
ts = st.floats(-50.0, 50.0)
scores = st.lists(st.floats(1.0, 10.0), min_size=2, max_size=6)


@pytest.mark.parametrize("count", T_TABLE)
def test_the_tail_is_that_of_the_printed_table(count: int) -> None:
    for p, t in T_TABLE[count].items():
        # The table rounds t to three digits after the point: p lies between the tails of its two borders.
        assert student_tail(t + 0.0005, count) <= p <= student_tail(t - 0.0005, count)


def test_the_documents_table_of_seeds_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
    counts, factors = (
        [float(cell) for cell in re.search(rf"^\| {name} \|(.*)\|$", text, re.MULTILINE)[1].split("|")]
        for name in ("n", "times s")
    )
    for count, factor in zip(counts, factors, strict=True):
        rounded = [(factor + sign * 0.005) / math.sqrt(2.0 / count) for sign in (1, -1)]
        assert student_tail(rounded[0], 2 * count - 2) <= 0.01 <= student_tail(rounded[1], 2 * count - 2)


@given(ts)
def test_small_whole_degrees_have_closed_forms(t: float) -> None:
    root = math.sqrt(2.0 + t * t)
    # With 2 degrees the tail of a large t is a difference of near halves unless it is written as a quotient.
    two = 1.0 / (root * (root + t)) if t > 0 else 0.5 - t / (2.0 * root)
    assert student_tail(t, 1) == pytest.approx(math.atan2(1.0, t) / math.pi, rel=1e-10)
    assert student_tail(t, 2) == pytest.approx(two, rel=1e-10)


@settings(deadline=None)
@given(ts, degrees)
def test_the_tail_is_symmetric(t: float, count: float) -> None:
    assert student_tail(t, count) + student_tail(-t, count) == pytest.approx(1.0, abs=1e-12)
    assert student_tail(0.0, count) == pytest.approx(0.5, rel=1e-12)


@settings(deadline=None)
@given(ts, st.floats(1e-3, 5.0), degrees)
def test_the_tail_falls_with_t(t: float, more: float, count: float) -> None:
    low, high = student_tail(t + more, count), student_tail(t, count)
    assert 0.0 <= low <= high <= 1.0
    if abs(t) < 5.0:
        assert low < high


@settings(deadline=None)
@given(st.floats(0.01, 20.0), degrees, st.floats(1.1, 10.0))
def test_more_degrees_have_a_thinner_tail(t: float, count: float, times: float) -> None:
    assert student_tail(t, count * times) <= student_tail(t, count) * (1.0 + 1e-9)


@given(st.floats(-6.0, 6.0))
def test_the_limit_is_the_normal_distribution(t: float) -> None:
    normal = 0.5 * math.erfc(t / math.sqrt(2.0))
    assert student_tail(t, 1e6) == pytest.approx(normal, rel=5e-4)
    assert abs(student_tail(t, 1e6) - normal) < abs(student_tail(t, 10) - normal) or abs(t) < 1e-3


def test_extremes_neither_overflow_nor_become_no_number() -> None:
    assert student_tail(math.inf, 3) == 0.0
    assert student_tail(-math.inf, 3) == 1.0
    assert student_tail(1e300, 3) == 0.0
    assert student_tail(-1e300, 3) == 1.0
    assert student_tail(1e-300, 3) == 0.5
    # Far out, Student's tail is a power of t: with 1 degree it is 1 / (π t).
    assert student_tail(1e100, 1) == pytest.approx(1.0 / (math.pi * 1e100), rel=1e-9)


def test_the_tail_is_the_integral_of_the_density() -> None:
    for count in (1.7, 3.2, 24.99):
        norm = math.exp(math.lgamma((count + 1) / 2) - math.lgamma(count / 2)) / math.sqrt(count * math.pi)
        steps = 20_000
        width = 2.5 / steps
        middles = ((i + 0.5) * width for i in range(steps))
        area = sum(norm * (1 + t * t / count) ** (-(count + 1) / 2) for t in middles) * width
        assert student_tail(2.5, count) == pytest.approx(0.5 - area, abs=1e-9)


def test_welch_gives_the_figures_of_a_worked_example() -> None:
    # Welch's t-test in Wikipedia, example 1: t = -2.46, 25.0 degrees, p = 0.021.
    one = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    two = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    welch = compare(one, two, margin=0.0).welch
    assert welch is not None
    assert welch.t == welch.t_plain == pytest.approx(2.46, abs=0.005)
    assert welch.degrees == pytest.approx(25.0, abs=0.05)
    assert welch.p_two_sided == pytest.approx(0.021, abs=0.0005)
    assert welch.p == pytest.approx(welch.p_two_sided / 2)


def test_unequal_counts_are_weighed_by_their_own() -> None:
    # By hand: means 1.0 and 2.0, s² = 0.01 and 0.04, errors² = 0.005 and 0.01, so t = 0.9 / √0.015 and
    # degrees = 0.015² / (0.005² / 1 + 0.01² / 3).
    reference = [2.0 + 0.2 * math.sqrt(0.75) * sign for sign in (1, 1, -1, -1)]
    result = compare([1.0 - math.sqrt(0.005), 1.0 + math.sqrt(0.005)], reference, margin=0.1)
    assert result.welch is not None
    assert result.difference == pytest.approx(1.0)
    assert result.welch.t == pytest.approx(0.9 / math.sqrt(0.015))
    assert result.welch.degrees == pytest.approx(0.015**2 / (0.005**2 + 0.01**2 / 3))


@settings(deadline=None)
@given(scores, scores, st.floats(0.0, 0.1))
def test_degrees_lie_between_the_smaller_side_and_both(
    one: list[float], two: list[float], margin: float
) -> None:
    welch = compare(one, two, margin).welch
    assume(welch is not None)
    assert welch is not None
    assert min(len(one), len(two)) - 1 <= welch.degrees * (1 + 1e-9)
    assert welch.degrees <= (len(one) + len(two) - 2) * (1 + 1e-9)
    assert 0.0 <= welch.p <= 1.0
    assert 0.0 <= welch.p_two_sided <= 1.0


@settings(deadline=None)
@given(scores, scores)
def test_the_sides_mirror_each_other(one: list[float], two: list[float]) -> None:
    forward, backward = compare(one, two, 0.0), compare(two, one, 0.0)
    assert forward.difference == -backward.difference
    if forward.welch is None or backward.welch is None:
        assert forward.welch is backward.welch is None
        return
    assert forward.welch.p + backward.welch.p == pytest.approx(1.0, abs=1e-9)
    assert forward.welch.p_two_sided == pytest.approx(backward.welch.p_two_sided, rel=1e-9)


@settings(deadline=None)
@given(scores, scores, st.floats(1e-3, 1.0))
def test_a_wider_margin_is_harder_to_show(one: list[float], two: list[float], margin: float) -> None:
    near, far = compare(one, two, 0.0).welch, compare(one, two, margin).welch
    assume(near is not None)
    assert near is not None
    assert far is not None
    assert far.t < near.t
    assert far.p >= near.p
    assert far.p_two_sided == near.p_two_sided


@pytest.mark.parametrize(("one", "two"), [([3.0], [3.1]), ([3.0], [3.1, 3.2]), ([3.0, 3.1, 3.2], [3.3])])
def test_a_single_seed_gives_no_p_value(one: list[float], two: list[float]) -> None:
    result = compare(one, two)
    assert result.welch is None
    assert f"two seeds a side, here are {len(one)} and {len(two)}" in result.verdict
    assert result.difference == pytest.approx(sum(two) / len(two) - sum(one) / len(one))


def test_sides_without_scatter_give_no_p_value() -> None:
    # 0.1 has no exact double, so that a plain sum of squares would leave a scatter of rounding errors.
    result = compare([0.1] * 3, [0.2] * 3)
    assert Sample((0.1,) * 3).deviation == 0.0
    assert result.welch is None
    assert "no scatter" in result.verdict


def test_one_side_without_scatter_is_tested_with_the_other_s() -> None:
    welch = compare([3.0, 3.0, 3.0], [3.1, 3.2]).welch
    assert welch is not None
    assert welch.degrees == pytest.approx(1.0)


def test_scatter_too_small_to_square_is_still_scatter() -> None:
    welch = compare([0.0, 1e-200], [0.0, 1e-200, 2e-200], margin=0.0).welch
    assert welch is not None
    assert 1.0 <= welch.degrees <= 3.0


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        ([3.000, 3.001, 3.002], "Better by at least 0.005 nats per token"),
        ([3.098, 3.0985, 3.099], "Better, but not by at least 0.005"),
        ([3.09, 3.10, 3.11], "Not told apart"),
        ([3.200, 3.201, 3.202], "Worse"),
        ([3.0], "No verdict"),
    ],
)
def test_the_verdict_says_what_was_shown(candidate: list[float], verdict: str) -> None:
    assert compare(candidate, [3.1021, 3.1022, 3.1023]).verdict.startswith(verdict)


def test_a_p_value_is_never_written_as_zero() -> None:
    assert written(0.012345) == "p = 0.012"
    assert written(3e-9) == "p < 1e-6"
    assert written(0.0) == "p < 1e-6"
