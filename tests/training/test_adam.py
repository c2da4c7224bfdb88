"""AdamW here is torch's, step for step and in what it saves."""

import copy

import pytest
import torch
from torch import nn

from bytegolf.training.adam import Adam, AdamOptimizer

SPEC = Adam(0.1, beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 4), (5,), (2, 2)]]


def set_gradients(weights: list[nn.Parameter], step: int) -> None:
    """Another gradient at every step, and none for the second parameter at the first two."""
    generator = torch.Generator().manual_seed(step)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    if step < 2:
        weights[1].grad = None


def torch_optimizer(weights: list[nn.Parameter]) -> torch.optim.AdamW:
    settings = {"lr": SPEC.learning_rate, "eps": SPEC.epsilon, "weight_decay": SPEC.weight_decay}
    return torch.optim.AdamW(weights, betas=(SPEC.beta1, SPEC.beta2), fused=True, **settings)


def test_it_moves_as_torchs_does() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, reference = AdamOptimizer(ours, SPEC), torch_optimizer(theirs)
    for step in range(6):
        rate = 0.1 / (1 + step)
        optimizer.settings["lr"] = reference.param_groups[0]["lr"] = rate
        for one, weights in ((optimizer, ours), (reference, theirs)):
            set_gradients(weights, step)
            one.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("saved_by_torch", [False, True])
def test_it_goes_on_from_what_was_saved(saved_by_torch: bool) -> None:
    unbroken, weights = parameters(), parameters()
    one = AdamOptimizer(unbroken, SPEC)
    before = torch_optimizer(weights) if saved_by_torch else AdamOptimizer(weights, SPEC)
    for step in range(4):
        for optimizer, moved in ((one, unbroken), (before, weights)):
            set_gradients(moved, step)
            optimizer.step()
    state = before.state_dict()
    kept = copy.deepcopy(state)
    after = AdamOptimizer(weights, SPEC)
    after.load_state_dict(state)
    for step in range(4, 7):
        for optimizer, moved in ((one, unbroken), (after, weights)):
            set_gradients(moved, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(unbroken, weights, strict=True))
    # What was handed over is as it was.
    for number, values in kept["state"].items():
        assert all(torch.equal(value, state["state"][number][name]) for name, value in values.items())


def test_without_any_gradient_nothing_moves() -> None:
    weights = parameters()
    AdamOptimizer(weights, SPEC).step()
    assert all(torch.equal(a, b) for a, b in zip(weights, parameters(), strict=True))


def test_the_state_of_another_model_is_refused() -> None:
    state = AdamOptimizer(parameters()[:2], SPEC).state_dict()
    with pytest.raises(ValueError, match="has 2 parameters and this one 3"):
        AdamOptimizer(parameters(), SPEC).load_state_dict(state)
