"""The averages equal the weighted means that their definitions say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.training.averaging import Average, MovingAverage, StochasticAverage, WeightAverage
from bytegolf.training.budget import Budget
from bytegolf.training.schedule import Schedule, StepSchedule
from bytegolf.training.spec import Training


def history(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(steps)
    return [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(steps)]


@settings(max_examples=40, deadline=None)
@given(decay=st.floats(0, 0.999), steps=st.integers(1, 30))
def test_it_is_the_weighted_mean_of_all_weights_so_far(decay: float, steps: int) -> None:
    model = torch.nn.Linear(2, 3, bias=False, dtype=torch.float64)
    average = MovingAverage(model, decay)
    values = history(steps)
    for value in values:
        with torch.no_grad():
            model.weight.copy_(value)
        average.update()
    weights = torch.tensor([decay ** (steps - 1 - i) for i in range(steps)], dtype=torch.float64)
    expected = torch.einsum("s,sij->ij", weights / weights.sum(), torch.stack(values))
    torch.testing.assert_close(average.averages()["weight"], expected, rtol=1e-10, atol=1e-11)


def test_constant_weights_are_their_own_average_from_the_first_step_on() -> None:
    model = torch.nn.Linear(4, 4)
    average = MovingAverage(model, 0.999)
    for _ in range(3):
        average.update()
        for name, value in model.named_parameters():
            torch.testing.assert_close(average.averages()[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_the_average_is_a_copy() -> None:
    model = torch.nn.Linear(2, 2)
    average = MovingAverage(model, 0.5)
    average.update()
    before = average.averages()["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.averages()["weight"].add_(1.0)
    assert torch.equal(average.averages()["weight"], before)


@settings(max_examples=40, deadline=None)
@given(decay=st.floats(0, 0.999), steps=st.integers(1, 30))
def test_uncorrected_it_begins_with_the_start_values(decay: float, steps: int) -> None:
    model = torch.nn.Linear(2, 3, bias=False, dtype=torch.float64)
    start = model.weight.detach().clone()
    average = Average(decay, corrected=False).build(model)
    expected = start
    for value in history(steps):
        expected = decay * expected + (1 - decay) * value
        with torch.no_grad():
            model.weight.copy_(value)
        average.update(1.0)
    torch.testing.assert_close(average.averages()["weight"], expected, rtol=1e-10, atol=1e-11)


def snapshots(spec: StochasticAverage, multipliers: list[float]) -> list[int]:
    """The steps whose weights are in the mean, read from weights that are powers of two."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = spec.build(model)
    for step, multiplier in enumerate(multipliers):
        with torch.no_grad():
            model.weight.fill_(2.0**step)
        average.update(multiplier)
    if not average.steps:
        return []
    total = round(float(average.averages()["weight"]) * average.steps)
    return [step for step in range(len(multipliers)) if total >> step & 1]


@pytest.mark.parametrize(
    ("spec", "multipliers", "taken"),
    [
        (StochasticAverage(2, 0.4), [1, 0.8, 0.6, 0.4, 0.35, 0.3, 0.2, 0.1, 0.0], [4, 6, 8]),
        (StochasticAverage(1, 0.5), [1, 0.5, 0.49, 0.1], [2, 3]),
        # A floor stands still: what has begun goes on.
        (StochasticAverage(3, 0.4), [1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [1, 4, 7]),
        # The rise is low too.
        (StochasticAverage(1, 0.4), [0.005, 0.005, 0.2, 0.6, 1, 0.6, 0.2, 0.1], [6, 7]),
        # A fall that begins below; one step is not yet a fall.
        (StochasticAverage(1, 0.4), [0.3, 0.2, 0.1], [1, 2]),
        (StochasticAverage(5, 0.2), [1, 1, 0.9], []),
    ],
)
def test_snapshots_are_taken_every_so_often_once_the_rate_has_fallen(
    spec: StochasticAverage, multipliers: list[float], taken: list[int]
) -> None:
    assert snapshots(spec, multipliers) == taken


@pytest.mark.parametrize(
    "spec", [Average(0.9), Average(0.9, corrected=False), StochasticAverage(2, 0.5)], ids=str
)
@pytest.mark.parametrize("broken_at", [1, 4, 5, 6])
def test_saved_and_restored_it_goes_on_to_the_same_bits(spec: WeightAverage, broken_at: int) -> None:
    model = torch.nn.Linear(2, 2)
    first, second = spec.build(model), spec.build(model)
    for step in range(9):
        with torch.no_grad():
            model.weight.mul_(1.3)
        multiplier = 1.0 - step / 10
        first.update(multiplier)
        if step == broken_at:
            second.load_state_dict(first.state_dict())
        elif step > broken_at:
            second.update(multiplier)
    for name, value in first.averages().items():
        assert torch.equal(value, second.averages()[name])


def test_a_mean_of_snapshots_that_would_never_begin_is_refused() -> None:
    spec = StochasticAverage(below=0.3)
    assert Training(Budget(seconds=9.0), average=spec, schedule=StepSchedule(floor=0.2)).average == spec
    for schedule in (Schedule(warmdown=0.0), Schedule(floor=0.3), StepSchedule(floor=0.5)):
        with pytest.raises(RecipeError, match=r"average\.below=0\.3, but the learning rate only falls to"):
            Training(Budget(seconds=9.0), average=spec, schedule=schedule)


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("below", 0.0), ("below", 1.1)])
def test_snapshots_that_cannot_work_are_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"average.{name}={value}"):
        StochasticAverage(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_outside_are_refused(decay: float) -> None:
    with pytest.raises(RecipeError, match="decay="):
        Average(decay)
