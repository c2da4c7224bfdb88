"""Roles to optimizers: which parameter is treated how."""

import dataclasses

import pytest
import torch
from toy_training import network

from bytegolf.errors import RecipeError
from bytegolf.model.roles import MATRIX_ROLES, Role, parameter_roles
from bytegolf.training.adam import Adam
from bytegolf.training.groups import OptimizerGroup, Optimizers
from bytegolf.training.muon import Muon, MuonOptimizer
from bytegolf.training.ranks import Ranks
from bytegolf.training.schedule import Taper

SPEC = Optimizers(Muon(0.1), Adam(0.2), Adam(0.3), Adam(0.4, beta1=0.8, beta2=0.9, weight_decay=0.5))


def backward(model: torch.nn.Module) -> None:
    ids = torch.arange(24).view(2, 12)
    model.losses(ids, ids + 1, ids % 7 == 0).sum().backward()  # type: ignore[operator]


def test_every_role_has_a_treatment() -> None:
    treatments = {role: SPEC.treatment(role) for role in Role}
    assert {role for role, spec in treatments.items() if spec is SPEC.matrices} == MATRIX_ROLES
    assert treatments[Role.EMBEDDING] is SPEC.embedding
    assert treatments[Role.HEAD] is SPEC.head
    assert treatments[Role.SCALAR] is treatments[Role.GATE] is SPEC.scalars


def test_every_parameter_is_in_exactly_one_optimizer_by_its_role() -> None:
    model = network()
    group = OptimizerGroup(model, SPEC, Ranks(), precision=torch.float64)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    roles = parameter_roles(model)
    seen = []
    for optimizer in group.optimizers:
        for parameter in optimizer.parameters:
            seen.append(names[id(parameter)])
            assert isinstance(optimizer, MuonOptimizer) == (roles[seen[-1]] in MATRIX_ROLES)
            assert optimizer.settings["lr"] == SPEC.treatment(roles[seen[-1]]).learning_rate
    assert sorted(seen) == sorted(roles)


def test_the_multiplier_scales_every_rate() -> None:
    model = network()
    group = OptimizerGroup(model, SPEC, Ranks(), precision=torch.float64)
    for multiplier in (0.5, 0.25):
        backward(model)
        group.step(multiplier)
        rates = {optimizer.settings["lr"] for optimizer in group.optimizers}
        assert rates == {0.1 * multiplier, 0.2 * multiplier, 0.4 * multiplier}


def test_only_the_decay_of_tapered_matrices_follows_the_budget() -> None:
    spec = Optimizers(
        Muon(0.1, weight_decay=0.2, decay_taper=Taper(start=0.5, end=0.0)), Adam(0.2, weight_decay=0.3)
    )
    model = network()
    group = OptimizerGroup(model, spec, Ranks(), precision=torch.float64)
    for progress, decay in ((0.2, 0.2), (0.75, 0.1), (1.0, 0.0)):
        backward(model)
        weight = model.stack.blocks[0].mlp.up.weight  # type: ignore[union-attr]
        weight.grad.zero_()
        for optimizer in group.optimizers:
            optimizer.state.pop(weight, None)
        before = weight.detach().clone()
        group.step(0.5, progress=progress)
        torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5 * decay), rtol=1e-14, atol=0)
        decays = {optimizer.settings["weight_decay"] for optimizer in group.optimizers}
        assert sorted(decays) == pytest.approx(sorted({0.0, decay, 0.3}))


def test_a_multiplier_of_zero_changes_no_weight() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    group = OptimizerGroup(model, SPEC, Ranks(), precision=torch.float64)
    backward(model)
    group.step(0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_adam_is_decoupled_adam_with_bias_correction() -> None:
    model = network()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    group = OptimizerGroup(model, SPEC, Ranks(), precision=torch.float64)
    backward(model)
    grads = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    group.step(1.0)
    for name, role in parameter_roles(model).items():
        spec = SPEC.treatment(role)
        if name not in grads or not isinstance(spec, Adam):
            continue
        w, g = start[name], grads[name]
        # After one step both corrected moments are those of the gradient alone.
        expected = w * (1 - spec.learning_rate * spec.weight_decay) - spec.learning_rate * g / (
            g.abs() + spec.epsilon
        )
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"beta1": 1.0}, "beta1=1.0"),
        ({"beta2": -0.5}, "beta2=-0.5"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(Adam(0.1), **values)
