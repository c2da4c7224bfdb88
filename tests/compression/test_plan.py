"""A plan meets its byte budget with the least predicted loss, or says what would fit."""

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.artifact import coding
from bytegolf.artifact.container import Contents, pack
from bytegolf.compression import costs
from bytegolf.compression import plan as planning
from bytegolf.compression.compress import compress_model, role_rows, storage_of
from bytegolf.compression.costs import (
    TENSOR_OVERHEAD_BYTES,
    Cost,
    GridCosts,
    estimate_bytes,
    grid_costs,
    refined,
)
from bytegolf.compression.floats import Float8, Float16
from bytegolf.compression.grid import Grid, LeastSquares, StandardDeviations
from bytegolf.compression.plan import fit, is_matrix
from bytegolf.compression.spec import DEFAULT_CHOICES
from bytegolf.compression.storage import Storage, dequantize_model
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import RecipeError


def relative_sensitivities(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """1 / ‖W‖² for each tensor, for want of measured ones: equal relative errors then hurt equally."""
    return {name: 1.0 / float(tensor.square().sum()) for name, tensor in tensors.items()}


def _model() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        columns_spread = torch.exp(0.5 * torch.randn(columns, generator=generator))
        return 0.04 * torch.randn(rows, columns, generator=generator) * columns_spread

    parameters = {"embedding.weight": matrix(600, 96)}
    roles = {"embedding.weight": "embedding"}
    for layer in range(3):
        for role, rows, columns in (("attention_query", 96, 96), ("mlp_up", 288, 96), ("mlp_down", 96, 288)):
            parameters[f"{layer}.{role}"] = matrix(rows, columns)
            roles[f"{layer}.{role}"] = role
        parameters[f"{layer}.gain"] = torch.randn(96, generator=generator)
        roles[f"{layer}.gain"] = "scalar"
    return parameters, roles


def _matrices() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    parameters, roles = _model()
    return {name: p for name, p in parameters.items() if is_matrix(p, roles[name], 4096)}, roles


@functools.cache
def _costs() -> GridCosts:
    """Of the model's matrices on the default choices, equal relative errors hurting equally."""
    matrices, roles = _matrices()
    return grid_costs(matrices, roles, relative_sensitivities(matrices), DEFAULT_CHOICES)


@pytest.mark.parametrize(
    "grid",
    [Grid(8), Grid(6, StandardDeviations(12.85)), Grid(5, LeastSquares()), Grid(3, StandardDeviations(3))],
    ids=Grid.describe,
)
def test_estimated_bytes_are_within_one_percent_of_coded_bytes(grid: Grid) -> None:
    for weight in _matrices()[0].values():
        quantized = grid.quantize(weight)
        coded = coding.encode_ints(quantized.ints.numpy(), grid.limit)
        scales = coding.encode_scales(quantized.scales.numpy())
        overhead = TENSOR_OVERHEAD_BYTES
        assert estimate_bytes(quantized) - overhead == pytest.approx(len(coded) + len(scales), rel=0.01)


@pytest.mark.parametrize(
    "storage",
    [Ternary(), Ternary(32), Binary(), Binary(16), Float8(), Float16()],
    ids=lambda storage: storage.describe(),
)
def test_any_storage_takes_the_bytes_that_are_estimated(storage: Storage) -> None:
    generator = torch.Generator().manual_seed(0)
    columns_spread = torch.exp(0.5 * torch.randn(192, generator=generator))
    weight = 0.04 * torch.randn(600, 192, generator=generator) * columns_spread
    stored = storage.quantize(weight)
    account = dict(pack(Contents({}, b"", {"weight": stored}, {"weight": "mlp_up"}, {}))[1].parts)
    coded = account["mlp_up"] + account.get("scales", 0)
    assert estimate_bytes(stored) - TENSOR_OVERHEAD_BYTES == pytest.approx(coded, rel=0.01)


def test_a_plan_may_choose_among_storages() -> None:
    matrices, roles = _matrices()
    choices = (Float16(), Float8(), Grid(6), Grid(3), Ternary(), Binary())
    costs = grid_costs(matrices, roles, relative_sensitivities(matrices), choices)
    for group in costs.groups:
        sizes, losses = [cost.size for cost in group.costs], [cost.loss for cost in group.costs]
        assert sizes == sorted(sizes, reverse=True)
        assert losses == sorted(losses)
    sizes = [sum(group.costs[place].size for group in costs.groups) for place in range(len(choices))]
    for place, storage in enumerate(choices):
        fitted = fit(costs, budget_bytes=round(1.001 * sizes[place]), fixed_bytes=0)
        assert fitted.fits
        assert place > 0 or set(fitted.grids.values()) == {storage}
    mixed = fit(costs, budget_bytes=round((sizes[3] + sizes[4]) / 2), fixed_bytes=0)
    assert len(set(mixed.grids.values())) > 1


@pytest.mark.parametrize("budget", [90_000, 120_000, 160_000])
def test_the_written_file_meets_the_budget_and_the_prediction(budget: int) -> None:
    parameters, roles = _model()
    matrices, _ = _matrices()
    rest = {name: tensor for name, tensor in parameters.items() if name not in matrices}
    fixed = len(pack(Contents({}, b"", dict(rest), {name: roles[name] for name in rest}, {}))[0])
    fitted = fit(
        _costs(),
        budget_bytes=budget,
        fixed_bytes=fixed,
    )
    assert fitted.fits
    assert fitted.remedy == ""
    compressed = compress_model(parameters, roles, fitted.grids)
    size = len(pack(Contents({}, b"", compressed, roles, {}))[0])
    assert size <= budget
    assert size == pytest.approx(fitted.total_bytes, rel=0.01)
    assert fitted.total_bytes > 0.93 * budget


def test_more_bytes_never_predict_more_loss() -> None:
    losses = [
        fit(_costs(), budget_bytes=budget, fixed_bytes=0).loss_increase
        for budget in (80_000, 110_000, 160_000)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_a_sensitive_role_gets_the_finer_grid() -> None:
    costs = _costs()
    groups = [
        replace(group, costs=[Cost(cost.size, cost.loss * 1000) for cost in group.costs])
        if group.role == "mlp_down"
        else group
        for group in costs.groups
    ]
    grids = fit(GridCosts(costs.choices, tuple(groups)), budget_bytes=110_000, fixed_bytes=0).grids
    order = {grid: place for place, grid in enumerate(DEFAULT_CHOICES)}
    assert order[grids["mlp_down"]] < order[grids["mlp_up"]]


def test_layers_of_one_role_may_differ() -> None:
    matrices, roles = _matrices()
    depths = {name: name[0] for name in matrices if name[0].isdigit()}
    sensitivities = relative_sensitivities(matrices)
    sensitivities["0.mlp_up"] *= 1000
    sensitivities["2.mlp_down"] /= 1000
    choices = (Grid(6), Grid(4), Grid(3))
    costs = grid_costs(matrices, roles, sensitivities, choices, depths=depths)
    assert [(group.role, group.names) for group in costs.groups[:2]] == [
        ("embedding", ("embedding.weight",)),
        ("attention_query", ("0.attention_query",)),
    ]
    together = grid_costs(matrices, roles, sensitivities, choices)
    for role in ("mlp_up", "mlp_down"):
        parts = [group.costs for group in costs.groups if group.role == role]
        (whole,) = (group.costs for group in together.groups if group.role == role)
        for place, cost in enumerate(whole):
            assert sum(part[place].size for part in parts) == pytest.approx(cost.size, rel=0.01)
            assert sum(part[place].loss for part in parts) == pytest.approx(cost.loss)
    fitted = fit(costs, budget_bytes=110_000, fixed_bytes=0)
    assert fitted.loss_increase < fit(together, budget_bytes=110_000, fixed_bytes=0).loss_increase
    plan = fitted.grids
    assert plan.keys() >= {"embedding", "attention_query", "mlp_up", "mlp_down"}
    found = {
        name: storage_of(name, tensor, roles[name], plan, passthrough_elements=4096)
        for name, tensor in matrices.items()
    }
    places = {name: choices.index(grid) for name, grid in found.items() if isinstance(grid, Grid)}
    assert places["0.mlp_up"] < max(places["1.mlp_up"], places["2.mlp_up"])
    assert places["2.mlp_down"] > min(places["0.mlp_down"], places["1.mlp_down"])
    sizes = {group.names[0]: group.costs[places[group.names[0]]].size for group in costs.groups}
    assert fitted.total_bytes == pytest.approx(sum(sizes.values()), abs=1)


def test_steps_between_measured_ones_are_predicted_without_measuring() -> None:
    matrices, roles = _matrices()
    matrices = {name: matrices[name] for name in ("embedding.weight", "1.mlp_down")}
    sensitivities = relative_sensitivities(matrices)
    choices = (Float16(), *(Grid(8, StandardDeviations(k)) for k in (8.5, 12.5)), Ternary())
    choices += (Grid(6, StandardDeviations(13.5)), Grid(5, StandardDeviations(9.6)))
    more = refined(grid_costs(matrices, roles, sensitivities, choices))
    assert more.choices[: len(choices)] == choices
    assert len(more.choices) == len(choices) + 3 * 3
    measured = grid_costs(matrices, roles, sensitivities, more.choices[len(choices) :])
    steps = [
        grid.clip.k / grid.limit
        for grid in measured.choices
        if isinstance(grid, Grid) and isinstance(grid.clip, StandardDeviations)
    ]
    assert len(set(steps)) == len(measured.choices)
    for group, truth in zip(more.groups, measured.groups, strict=True):
        for found, real in zip(group.costs[len(choices) :], truth.costs, strict=True):
            assert found.size == pytest.approx(real.size, rel=0.01)
            assert found.loss == pytest.approx(real.loss, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.0, 1.0))
def test_a_fitted_plan_uses_its_budget(share: float) -> None:
    costs = refined(_costs())
    # The coarsest grid, and 8 bits with 8.5 deviations: here finer steps would clip outliers.
    least, most = (sum(group.costs[place].size for group in costs.groups) for place in (11, 3))
    budget = round(1.001 * least + share * (most - least))
    fitted = fit(costs, budget_bytes=budget, fixed_bytes=0)
    assert fitted.fits
    assert 0.985 * budget < fitted.total_bytes <= budget


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    ),
    room=st.integers(1, 250),
)
def test_the_choice_is_the_best_of_all_combinations(rows, room: int) -> None:
    costs = [[Cost(float(size), float(loss)) for size, loss in row] for row in rows]
    allowed = [
        sum(row[i].loss for row, i in zip(costs, indices, strict=True))
        for indices in itertools.product(range(3), repeat=len(rows))
        if sum(row[i].size for row, i in zip(costs, indices, strict=True)) <= room
    ]
    found = planning._least_loss(costs, room)
    if found is None:
        assert not allowed
    else:
        assert sum(row[i].loss for row, i in zip(costs, found, strict=True)) == min(allowed)


def test_thinning_a_long_front_keeps_what_fits_and_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    costs = [
        [Cost(float(size), float(1000 / size)) for size in random.integers(50, 500, 12)] for _ in range(6)
    ]
    exact = planning._least_loss(costs, 1200)
    monkeypatch.setattr(planning, "_FRONT", 100)
    thinned = planning._least_loss(costs, 1200)
    assert exact is not None
    assert thinned is not None
    losses = [sum(row[i].loss for row, i in zip(costs, found, strict=True)) for found in (exact, thinned)]
    assert losses[0] <= losses[1] < losses[0] * 1.03


def test_a_budget_that_cannot_be_met_says_what_would_fit() -> None:
    costs = _costs()
    missed = fit(costs, budget_bytes=50_000, fixed_bytes=5000)
    assert not missed.fits
    assert missed.miss_bytes == missed.total_bytes - 50_000 > 0
    assert "width" in missed.remedy
    assert "vocabulary" in missed.remedy
    needed = re.search(r"budget to (\d+) bytes", missed.remedy)
    assert needed is not None
    assert fit(costs, budget_bytes=int(needed.group(1)), fixed_bytes=5000).fits


def test_a_budget_below_the_fixed_part_says_so() -> None:
    matrices, roles = _matrices()
    costs = grid_costs(matrices, roles, relative_sensitivities(matrices), (Grid(4),))
    missed = fit(costs, budget_bytes=4000, fixed_bytes=5000)
    assert not missed.fits
    assert "tokenizer" in missed.remedy


def test_a_tensor_under_several_names_counts_for_each() -> None:
    tensor = torch.randn(64, 80, generator=torch.Generator().manual_seed(1))
    once = grid_costs({"a": tensor}, {"a": "mlp_up"}, {"a": 2.0}, DEFAULT_CHOICES).groups[0].costs
    names = ("a", "b", "c")
    thrice = (
        grid_costs(
            dict.fromkeys(names, tensor),
            dict.fromkeys(names, "mlp_up"),
            dict.fromkeys(names, 2.0),
            DEFAULT_CHOICES,
        )
        .groups[0]
        .costs
    )
    for one, three in zip(once, thrice, strict=True):
        assert three.size == pytest.approx(3 * one.size)
        assert three.loss == pytest.approx(3 * one.loss)


def test_compression_follows_roles_and_sizes() -> None:
    parameters, roles = _model()
    plan = dict.fromkeys(("embedding", "attention_query", "mlp_up", "mlp_down"), Grid(6))
    compressed = compress_model(parameters, roles, plan)
    assert list(compressed) == list(parameters)
    restored = dequantize_model(compressed)
    for name, tensor in parameters.items():
        grid = storage_of(name, tensor, roles[name], plan, passthrough_elements=4096)
        expected = tensor if grid is None else grid.fake_quantize(tensor)
        assert (grid is None) == (roles[name] == "scalar")
        assert torch.equal(restored[name], expected)
    small = compress_model(parameters, roles, plan, passthrough_elements=10_000)
    assert isinstance(small["0.attention_query"], torch.Tensor)
    with pytest.raises(RecipeError, match="role embedding"):
        compress_model(parameters, roles, {"mlp_up": Grid(6)})


def test_the_table_names_bits_bytes_and_errors_of_each_role() -> None:
    parameters, roles = _model()
    plan = dict.fromkeys(("embedding", "attention_query", "mlp_up"), Grid(6)) | {"mlp_down": Grid(3)}
    compressed = compress_model(parameters, roles, plan)
    account = pack(Contents({}, b"", compressed, roles, {}))[1]
    rows = {
        row.role: row
        for row in role_rows(parameters, compressed, roles, plan, bytes_by_role=dict(account.parts))
    }
    assert rows.keys() == plan.keys()
    assert rows["mlp_down"].bits == 3
    assert rows["mlp_down"].parameters == 3 * 96 * 288
    assert rows["mlp_down"].relative_error > 4 * rows["mlp_up"].relative_error > 0
    assert rows["mlp_down"].bytes == dict(account.parts)["mlp_down"]


def test_layers_between_the_measured_ones_are_predicted_within_one_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(1)
    # Deeper layers have rows of more unlike sizes, so their coded size falls below their entropy.
    weights = {
        f"{layer}.mlp_up": torch.randn(768, 256, generator=generator)
        * torch.exp(0.15 * layer * torch.randn(768, 1, generator=generator))
        * torch.exp(0.1 * layer * torch.randn(256, generator=generator))
        for layer in range(6)
    }
    asked = []
    real = costs.estimate_bytes
    monkeypatch.setattr(costs, "estimate_bytes", lambda stored: asked.append(stored) or real(stored))
    choices = (Grid(8), Grid(6), Grid(5), Grid(4))
    found = grid_costs(weights, dict.fromkeys(weights, "mlp_up"), dict.fromkeys(weights, 1.0), choices)
    assert len(asked) == 2 * 3
    for choice, cost in zip(choices, found.groups[0].costs, strict=True):
        whole = sum(real(choice.quantize(weight)) for weight in weights.values())
        assert cost.size == pytest.approx(whole, rel=0.01)
