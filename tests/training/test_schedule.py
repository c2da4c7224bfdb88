"""The learning-rate factor over the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.training.schedule import Schedule


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
        assert schedule.multiplier(progress) == pytest.approx(expected)


shares = st.floats(0, 1)


@given(warmup=shares, warmdown=shares, floor=shares, progress=shares)
def test_the_factor_stays_between_nothing_and_one(
    warmup: float, warmdown: float, floor: float, progress: float
) -> None:
    factor = Schedule(warmup, warmdown, floor).multiplier(progress)
    assert 0.0 <= factor <= 1.0
    if progress >= warmup:
        assert factor >= floor


@given(warmdown=shares, a=shares, b=shares)
def test_after_the_rise_it_never_rises_again(warmdown: float, a: float, b: float) -> None:
    schedule = Schedule(warmup=0.1, warmdown=warmdown)
    a, b = sorted((max(a, 0.1), max(b, 0.1)))
    assert schedule.multiplier(a) >= schedule.multiplier(b)


@pytest.mark.parametrize("name", ["warmup", "warmdown", "floor"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_outside_are_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"schedule.{name}"):
        Schedule(**{name: value})
