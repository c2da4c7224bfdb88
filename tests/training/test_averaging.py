"""The moving average equals the weighted mean that its definition says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.training.averaging import Average, MovingAverage


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


def test_saved_and_restored_it_goes_on_to_the_same_bits() -> None:
    model = torch.nn.Linear(2, 2)
    first, second = MovingAverage(model, 0.9), MovingAverage(model, 0.9)
    for _ in range(3):
        first.update()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        model.weight.mul_(3.0)
    first.update()
    second.update()
    for name, value in first.averages().items():
        assert torch.equal(value, second.averages()[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_outside_are_refused(decay: float) -> None:
    with pytest.raises(RecipeError, match="decay="):
        Average(decay)
