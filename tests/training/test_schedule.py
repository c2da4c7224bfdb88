"""The learning-rate factor over the budget."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.training.budget import Budget
from bytegolf.training.schedule import RateSchedule, Schedule, StepSchedule, Taper
from bytegolf.training.spec import Training


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Schedule(), {0.0: 1.0, 0.25: 1.0, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0, 1.7: 0.0, -1.0: 1.0}),
        (Schedule(warmup=0.2), {0.0: 0.005, 0.1: 0.5, 0.2: 1.0, 0.5: 1.0, 0.9: 0.2}),
        (Schedule(warmdown=0.8, floor=0.1), {0.0: 1.0, 0.2: 1.0, 0.6: 0.5, 0.96: 0.1, 1.0: 0.1}),
        (Schedule(warmdown=0.0), {0.0: 1.0, 0.99: 1.0, 1.0: 1.0}),
        (Schedule(warmdown=1.0), {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
    ],
)
def test_values(schedule: Schedule, values: dict[float, float]) -> None:
    for progress, expected in values.items():
        assert schedule.multiplier(progress, math.inf) == pytest.approx(expected)


shares = st.floats(0, 1)


@given(warmup=shares, warmdown=shares, floor=shares, progress=shares)
def test_the_factor_stays_between_nothing_and_one(
    warmup: float, warmdown: float, floor: float, progress: float
) -> None:
    factor = Schedule(warmup, warmdown, floor).multiplier(progress, math.inf)
    assert 0.0 <= factor <= 1.0
    if progress >= warmup:
        assert factor >= floor


@given(warmdown=shares, a=shares, b=shares)
def test_after_the_rise_it_never_rises_again(warmdown: float, a: float, b: float) -> None:
    schedule = Schedule(warmup=0.1, warmdown=warmdown)
    a, b = sorted((max(a, 0.1), max(b, 0.1)))
    assert schedule.multiplier(a, math.inf) >= schedule.multiplier(b, math.inf)


@pytest.mark.parametrize("name", ["warmup", "warmdown", "floor"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_outside_are_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"schedule.{name}"):
        Schedule(**{name: value})


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (StepSchedule(4), {0: 1.0, 5: 1.0, 6: 1.0, 7: 0.75, 8: 0.5, 9: 0.25, 10: 0.0}),
        (StepSchedule(4, floor=0.3), {6: 1.0, 8: 0.5, 9: 0.3, 10: 0.3}),
        (StepSchedule(20), {0: 0.5, 5: 0.25, 9: 0.05}),
        (StepSchedule(4, warmup=0.5), {0: 0.005, 2: 0.4, 5: 1.0, 9: 0.25}),
    ],
)
def test_a_fall_over_steps_counts_back_from_the_last(
    schedule: StepSchedule, values: dict[int, float]
) -> None:
    for budget, tokens in ((Budget(steps=10), 0), (Budget(tokens=640), 64)):
        for step, expected in values.items():
            left = budget.steps_left(99.0, tokens * step, step, 64)
            assert schedule.multiplier(step / 10, left) == pytest.approx(expected)


@given(
    cap=st.floats(1, 1e4),
    warmdown=st.integers(1, 5000),
    step=st.integers(1, 10_000),
    share=st.floats(0.01, 1),
)
def test_a_budget_of_seconds_is_projected_as_the_challenge_does(
    cap: float, warmdown: int, step: int, share: float
) -> None:
    elapsed = share * cap
    warmdown_seconds = warmdown * (elapsed / step)
    remaining = cap - elapsed
    expected = remaining / warmdown_seconds if remaining <= warmdown_seconds else 1.0
    left = Budget(seconds=cap).steps_left(elapsed, 0, step, 64)
    assert StepSchedule(warmdown).multiplier(share, left) == pytest.approx(expected, abs=1e-9)


def test_before_the_first_step_of_a_timed_run_nothing_is_known() -> None:
    assert StepSchedule(10**6).multiplier(0.0, Budget(seconds=5.0).steps_left(0.0, 0, 0, 64)) == 1.0
    assert Budget(seconds=5.0, steps=30).steps_left(0.0, 0, 0, 64) == 30


@given(
    schedule=st.one_of(
        st.builds(Schedule, st.floats(0, 0.5), st.floats(0.01, 1), st.floats(0, 0.5)),
        st.builds(StepSchedule, st.integers(1, 60), st.floats(0, 0.5), st.floats(0, 0.5)),
    ),
    budget=st.one_of(
        st.builds(Budget, steps=st.integers(1, 50)),
        st.builds(Budget, tokens=st.integers(64, 3200)),
        st.builds(Budget, tokens=st.integers(64, 3200), steps=st.integers(1, 50)),
    ),
    below=st.floats(0.01, 1.0),
)
def test_the_progress_below_divides_the_steps_by_their_factor(
    schedule: RateSchedule, budget: Budget, below: float
) -> None:
    training = Training(budget, rows=4, length=16, schedule=schedule)
    if schedule.lowest >= below:
        with pytest.raises(RecipeError, match=r"never falls below .* only to"):
            training.progress_below(below)
        return
    place = training.progress_below(below)
    assert 0.0 <= place <= 1.0
    for step in range(50):
        usage = (0.0, 64 * step, step)
        progress = budget.progress(*usage)
        # On the border itself rounding decides.
        if progress >= 1.0 or abs(progress - place) < 1e-9:
            continue
        factor = schedule.multiplier(progress, budget.steps_left(*usage, 64))
        if progress > place:
            assert factor < below + 1e-9
        elif progress >= schedule.warmup:
            assert factor >= below - 1e-9


def test_where_steps_are_not_known_in_advance_the_progress_below_is_refused() -> None:
    timed = Training(Budget(seconds=60.0), schedule=StepSchedule(100))
    with pytest.raises(
        RecipeError, match=r"schedule\.warmdown=100 counts steps.*not known in advance.*below 0\.15"
    ):
        timed.progress_below(0.15)
    fractional = Training(Budget(seconds=60.0), schedule=Schedule(warmdown=0.8))
    assert fractional.progress_below(0.15) == pytest.approx(0.88)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmdown": 0}, "schedule.warmdown=0"),
        ({"warmup": 1.5}, "schedule.warmup=1.5"),
        ({"floor": -1.0}, "schedule.floor=-1.0"),
    ],
)
def test_step_schedules_that_cannot_work_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        StepSchedule(**values)  # type: ignore[arg-type]


@given(start=st.floats(0, 0.99), end=st.floats(0, 1), a=shares, b=shares)
def test_a_taper_stays_between_one_and_its_end_and_never_rises(
    start: float, end: float, a: float, b: float
) -> None:
    taper = Taper(start, end)
    first, second = (taper.factor(progress) for progress in sorted((a, b)))
    assert 1.0 >= first >= second >= end - 1e-12
    assert taper.factor(start) == 1.0
    assert taper.factor(1.0) == pytest.approx(end)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"start": 1.0}, "start=1.0"), ({"start": -0.1}, "start=-0.1"), ({"end": -1.0}, "end=-1.0")],
)
def test_tapers_that_cannot_work_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Taper(**values)
