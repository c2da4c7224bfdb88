"""Weights go in the right order, and no more of them than a budget asks for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.compression.compress import compress_model
from bytegolf.compression.costs import estimate_bytes
from bytegolf.compression.grid import AbsMax, Grid, StandardDeviations
from bytegolf.compression.pruning import SingleSteps, fewest_that_fit, prune_smallest
from bytegolf.compression.storage import Storage, dequantize_model
from bytegolf.compression.ternary import Binary, Ternary


@pytest.mark.parametrize(("share", "zeros"), [(0.0, 0), (0.03, 3), (0.5, 50), (0.999, 99)])
def test_the_smallest_share_of_a_matrix_becomes_zero(share: float, zeros: int) -> None:
    weight = torch.randn(4, 25, generator=torch.Generator().manual_seed(0))
    pruned = prune_smallest(weight, share)
    assert int((pruned == 0).sum()) == zeros
    kept = pruned != 0
    assert torch.equal(pruned[kept], weight[kept])
    assert zeros == 0 or weight[~kept].abs().max() < weight[kept].abs().min()


def test_pruning_passes_the_gradient_of_what_stays() -> None:
    weight = torch.tensor([[0.1, -2.0, 0.3, 4.0]], requires_grad=True)
    prune_smallest(weight, 0.5).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, 0.0, 1.0]]


def _model() -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, Storage]]:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "fine": torch.randn(40, 60, generator=generator),
        "coarse": 0.2 * torch.randn(30, 60, generator=generator),
        "ternary": torch.randn(30, 60, generator=generator),
        "binary": torch.randn(30, 60, generator=generator),
        "scale": torch.randn(60, generator=generator),
    }
    roles = {
        "fine": "mlp_up",
        "coarse": "mlp_down",
        "ternary": "head",
        "binary": "embedding",
        "scale": "scalar",
    }
    plan: dict[str, Storage] = {
        "mlp_up": Grid(6, StandardDeviations(10)),
        "mlp_down": Grid(3, AbsMax()),
        "head": Ternary(16),
        "embedding": Binary(16),
    }
    return parameters, roles, plan


def test_single_steps_go_by_the_squared_error_that_they_add() -> None:
    parameters, roles, plan = _model()
    compressed = compress_model(parameters, roles, plan, passthrough_elements=0)
    steps = SingleSteps(parameters, compressed)

    def error(values: dict[str, torch.Tensor]) -> float:
        return sum(float((values[name] - weight).square().sum()) for name, weight in parameters.items())

    before = dequantize_model(compressed)
    count = len(steps) // 3
    after = dequantize_model(steps.without(count))
    changed = {name: before[name] != after[name] for name in parameters}
    assert sum(int(mask.sum()) for mask in changed.values()) == pytest.approx(count, abs=3)
    assert not changed["binary"].any()
    assert not changed["scale"].any()
    added = error(after) - error(before)
    # As many of them at random cost more.
    random = {name: value.clone() for name, value in before.items()}
    generator = torch.Generator().manual_seed(1)
    for name in ("fine", "coarse", "ternary"):
        single = compressed[name].ints.abs() == 1  # pyrefly: ignore[missing-attribute]
        random[name][single & (torch.rand(single.shape, generator=generator) < 1 / 3)] = 0.0
    assert 0 <= added < 0.5 * (error(random) - error(before))
    everything = dequantize_model(steps.without(len(steps)))
    assert float(everything["ternary"].abs().max()) == 0.0
    assert {name: tensor.shape for name, tensor in everything.items()} == {
        name: tensor.shape for name, tensor in parameters.items()
    }


def test_nothing_pruned_is_the_model_itself() -> None:
    parameters, roles, plan = _model()
    compressed = compress_model(parameters, roles, plan, passthrough_elements=0)
    assert SingleSteps(parameters, compressed).without(0) == compressed
    only = {"binary": compressed["binary"]}
    assert len(SingleSteps(parameters, only)) == 0
    assert SingleSteps(parameters, only).without(0) == only


def test_pruned_integers_take_fewer_bytes() -> None:
    parameters, roles, plan = _model()
    compressed = compress_model(parameters, roles, plan, passthrough_elements=0)
    steps = SingleSteps(parameters, compressed)
    sizes = [
        sum(estimate_bytes(tensor) for tensor in steps.without(count).values())
        for count in (0, len(steps) // 2, len(steps))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@settings(max_examples=100, deadline=None)
@given(
    bend=st.floats(0.5, 2.0),
    count=st.integers(1, 10**6),
    share=st.floats(0.3, 1.2),
)
def test_a_budget_is_met_closely_with_few_trials(bend: float, count: int, share: float) -> None:
    full, least, tried = 1_000_000, 400_000, []

    def size_without(pruned: int) -> int:
        tried.append(pruned)
        return round(full - (full - least) * (pruned / count) ** bend)

    budget = round(share * full)
    found = fewest_that_fit(size_without, count, size=full, budget=budget)
    if budget >= full:
        assert found == 0
    elif budget < least:
        assert found is None
    else:
        assert found is not None
        assert len(tried) <= 11
        assert size_without(found) <= budget
        assert size_without(found) >= 0.99 * budget or size_without(found - 1) > budget
