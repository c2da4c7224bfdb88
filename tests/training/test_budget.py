"""Budgets and the stopwatch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import Clock

from bytegolf.errors import BudgetError
from bytegolf.training.budget import Budget, Stopwatch
from bytegolf.training.spec import Training

budgets = st.builds(
    Budget,
    seconds=st.none() | st.floats(0.1, 1e4),
    tokens=st.none() | st.integers(1, 10**9),
    steps=st.integers(1, 10**6),
)


def test_progress_is_the_largest_share_of_any_limit() -> None:
    budget = Budget(seconds=10.0, tokens=1000, steps=100)
    assert budget.progress(1.0, 500, 20) == 0.5
    assert budget.progress(9.0, 500, 20) == 0.9
    assert budget.progress(0.0, 0, 80) == 0.8
    assert Budget(steps=4).progress(1e9, 10**12, 1) == 0.25


@given(budget=budgets, seconds=st.floats(0, 1e5), tokens=st.integers(0, 10**10), steps=st.integers(0, 10**7))
def test_nothing_is_allowed_once_a_limit_is_reached(
    budget: Budget, seconds: float, tokens: int, steps: int
) -> None:
    allowed = budget.allows(seconds, tokens, steps, next_seconds=1e-3, next_tokens=1)
    if budget.progress(seconds, tokens, steps) >= 1.0:
        assert not allowed


@pytest.mark.parametrize(
    ("budget", "allowed"),
    [
        (Budget(steps=5), True),
        (Budget(steps=4), False),
        (Budget(tokens=50), True),
        (Budget(tokens=49), False),
        (Budget(seconds=5.0), True),
        (Budget(seconds=4.9), False),
        (Budget(seconds=1e9, tokens=49, steps=100), False),
        (Budget(seconds=4.9, tokens=10**9, steps=100), False),
        (Budget(seconds=1e9, tokens=10**9, steps=4), False),
    ],
)
def test_the_first_limit_reached_decides(budget: Budget, allowed: bool) -> None:
    assert budget.allows(4.0, 40, 4, next_seconds=1.0, next_tokens=10) is allowed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no limit"),
        ({"seconds": 0.0}, r"budget.seconds=0.0"),
        ({"tokens": -1}, r"budget.tokens=-1"),
        ({"steps": 0, "seconds": 1.0}, r"budget.steps=0"),
    ],
)
def test_budgets_without_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**values)  # type: ignore[arg-type]


def test_a_token_budget_below_one_step_is_refused_with_the_recipe() -> None:
    with pytest.raises(BudgetError, match=r"budget\.tokens=127 is too small for one step of 128 tokens"):
        Training(Budget(tokens=127), rows=8, length=16)
    assert Training(Budget(tokens=128), rows=8, length=16).tokens_per_step == 128


def test_the_stopwatch_counts_only_while_it_runs() -> None:
    clock = Clock()
    watch = Stopwatch(clock=clock)
    clock.now += 5
    assert watch.seconds == 0
    watch.start()
    clock.now += 2
    assert watch.seconds == 2
    watch.start()
    clock.now += 1
    watch.pause()
    clock.now += 10
    watch.pause()
    assert watch.seconds == 3
    watch.start()
    clock.now += 4
    assert watch.seconds == 7


def test_a_restored_stopwatch_stands_still_at_the_saved_count() -> None:
    clock = Clock()
    watch = Stopwatch(clock=clock)
    watch.start()
    clock.now += 2
    watch.restore(50.0)
    clock.now += 2
    assert watch.seconds == 50
    watch.start()
    clock.now += 2
    assert watch.seconds == 52
