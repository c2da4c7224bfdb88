"""Noise of one step of the exported grid, the same on every rank and after a restart."""

import dataclasses

import pytest
import torch

from bytegolf.compression.compress import compress_model
from bytegolf.compression.grid import AbsMax, Grid
from bytegolf.compression.noise import NoisyWeights
from bytegolf.compression.plan import Plan
from bytegolf.compression.slots import weight_modules
from bytegolf.compression.spec import Compression, FixedBits, Noise, RoleGrid
from bytegolf.compression.stages import SeenGrids
from bytegolf.compression.storage import Storage, dequantize_model
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block

EVERYWHERE, GRID = Noise(), Grid(5, AbsMax())
LOOPED = Model(
    width=16,
    layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(24)),) * 3,
    loop=Loop(1, 1),
    vocabulary=40,
)


def _model(spec: Model = LOOPED) -> LanguageModel:
    torch.manual_seed(0)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def _noisy(
    model: LanguageModel, spec: Noise = EVERYWHERE, storage: Storage = GRID, seed: int = 3
) -> NoisyWeights:
    plan: Plan = FixedBits(storage).grids()
    return NoisyWeights(model, spec, lambda: plan, 0, seed=seed)


def _slots(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {
        name: module.quantized.clone()
        for name, (module, _) in weight_modules(model).items()
        if module.quantized is not None
    }


@pytest.mark.parametrize("storage", [GRID, Ternary(8), Binary(8)], ids=lambda s: s.describe())
def test_noise_is_uniform_within_half_a_step_of_the_exported_grid(storage: Storage) -> None:
    model = _model()
    stage = _noisy(model, storage=storage)
    stage.enter()
    draws = []
    for _ in range(20):
        for name, values in _slots(model).items():
            weight = model.get_parameter(name).detach()
            draws.append(((values - weight) / storage.steps(weight)).flatten())
        stage.after_update()
    shares = torch.cat(draws)
    assert shares.abs().max() <= 0.5 + 1e-4
    assert shares.abs().max() > 0.499
    assert float(shares.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(shares.std()) == pytest.approx(12**-0.5, rel=0.02)


def test_noise_is_drawn_anew_each_step_and_follows_the_weights() -> None:
    model = _model()
    stage = _noisy(model)
    stage.enter()
    first = _slots(model)
    stage.after_update()
    assert all(not torch.equal(first[name], values) for name, values in _slots(model).items())
    with torch.no_grad():
        model.embedding.weight.add_(5.0)
    stage.after_update()
    assert float(_slots(model)["embedding.weight"].mean()) > 4.0


def test_every_rank_draws_the_same_and_other_seeds_do_not() -> None:
    models = [_model() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        _noisy(model, seed=seed).enter()
    ours, twin, other = (_slots(model)["embedding.weight"] for model in models)
    assert torch.equal(ours, twin)
    assert not torch.equal(ours, other)


def test_a_restart_goes_on_with_the_same_noise() -> None:
    unbroken, resumed = _model(), _model()
    stage = _noisy(unbroken)
    stage.enter()
    for _ in range(4):
        stage.after_update()
    again = _noisy(resumed)
    again.restore(stage.state_dict())
    for _ in range(3):
        assert all(
            torch.equal(a, b)
            for a, b in zip(_slots(unbroken).values(), _slots(resumed).values(), strict=True)
        )
        stage.after_update()
        again.after_update()
    assert again.state_dict() == stage.state_dict()


def test_noise_goes_to_the_roles_or_looped_blocks_that_were_asked_for() -> None:
    every = set(_slots_after(Noise()))
    assert every == set(weight_modules(_model()))
    assert {name.rpartition(".weight")[0] for name in _slots_after(Noise(roles=(Role.EMBEDDING,)))} == {
        "embedding"
    }
    looped = _slots_after(Noise(looped_only=True))
    assert looped
    assert looped == [name for name in weight_modules(_model()) if ".blocks.1." in name]
    both = _slots_after(Noise(roles=(Role.MLP_UP,), looped_only=True))
    assert len(both) == 1


def _slots_after(spec: Noise) -> list[str]:
    model = _model()
    _noisy(model, spec).enter()
    return list(_slots(model))


def test_noise_on_no_matrix_at_all_is_refused() -> None:
    with pytest.raises(RecipeError, match="chooses no matrix"):
        _noisy(_model(dataclasses.replace(LOOPED, loop=None)), Noise(looped_only=True))
    with pytest.raises(RecipeError, match="chooses no matrix"):
        _noisy(_model(), Noise(roles=(Role.HEAD,)))


def test_gradients_pass_through_noise_to_the_weights() -> None:
    model = _model()
    ids = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(1))
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[:, 0] = True
    plain = model.losses(ids, ids, starts).mean()
    _noisy(model).enter()
    noisy = model.losses(ids, ids, starts).mean()
    assert not torch.equal(plain, noisy)
    noisy.backward()
    assert all(parameter.grad is not None for _, parameter in model.named_parameters())


def _seen(model: LanguageModel, spec: Compression, plans: list[Plan]) -> SeenGrids:
    return SeenGrids(model, spec, lambda: plans.pop(0), seed=1)


def test_both_stages_go_by_the_plan_of_the_first() -> None:
    spec = Compression(quantization_aware_from=0.8, noise=Noise(0.2), passthrough_elements=0)
    first, second = FixedBits(Grid(5)).grids(), FixedBits(Grid(6)).grids()
    seen = _seen(_model(), spec, [first, second])
    assert seen.plan is None
    quantization, noise = seen.stages
    noise.enter()
    quantization.enter()
    assert seen.plan == quantization.plan == noise.plan == first
    again = _seen(_model(), spec, [second])
    again.stages[1].restore(noise.state_dict())
    again.stages[0].enter()
    assert again.plan == first


def test_quantization_that_begins_after_noise_replaces_it() -> None:
    model = _model()
    spec = Compression(quantization_aware_from=0.8, noise=Noise(0.2), passthrough_elements=0)
    quantization, noise = _seen(model, spec, [FixedBits(Grid(5)).grids()]).stages
    for stage in (quantization, noise):
        stage.prepare()
    noise.enter()
    quantization.enter()
    for stage in (noise, quantization):
        stage.after_update()
    for name, values in _slots(model).items():
        assert torch.equal(values, Grid(5).fake_quantize(model.get_parameter(name)))


@pytest.mark.parametrize("prune", [0.0, 0.3])
def test_training_sees_the_exported_values_of_every_storage(prune: float) -> None:
    model = _model()
    plan = FixedBits(
        Ternary(8), (RoleGrid(Role.EMBEDDING, Grid(6)), RoleGrid(Role.MLP_UP, Ternary(8, scale="refit")))
    )
    spec = Compression(plan, quantization_aware_from=0.0, prune=prune, passthrough_elements=0)
    (stage,) = _seen(model, spec, [plan.grids()]).stages
    stage.enter()
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    parameters = dict(model.named_parameters())
    exported = dequantize_model(
        compress_model(parameters, roles, plan.grids(), passthrough_elements=0, prune=prune)
    )
    slots = _slots(model)
    assert len(slots) > 10
    for name, values in slots.items():
        assert torch.equal(values, exported[name]), name
