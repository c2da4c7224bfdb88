"""Low-rank corrections bring a matrix nearer to its weights, survive the file, and never do harm."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf import tree
from bytegolf.artifact.container import Contents, pack, unpack
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.low_rank import LowRank
from bytegolf.compression.pruning import SingleSteps
from bytegolf.compression.residual import (
    LowRankCorrection,
    correct_largest,
    corrected,
    correction_bytes,
    error_of,
    hessian_error,
)
from bytegolf.compression.rotation import rotated
from bytegolf.compression.storage import Storage, Stored
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import ArtifactError, RecipeError

STORAGES: list[Storage] = [
    Grid(3, StandardDeviations(3.5)),
    Grid(3, StandardDeviations(3.5), rotated=True),
    Ternary(16),
    Binary(7),
]
EVERY_STORAGE = pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.describe())


def _weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _hessian(columns: int, seed: int = 0) -> torch.Tensor:
    x_NC = _weight(4 * columns, columns, seed) @ _weight(columns, columns, seed + 1)
    return x_NC.T @ x_NC / len(x_NC)


def _error(weight: torch.Tensor, matrix: Quantized) -> float:
    return float((weight - matrix.dequantize()).square().sum())


@settings(max_examples=60, deadline=None)
@given(
    storage=st.sampled_from(STORAGES),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    rank=st.integers(1, 6),
    bits=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    group=st.integers(1, 100),
    with_hessian=st.booleans(),
)
def test_the_error_never_grows_and_the_file_gives_it_back(
    storage: Storage,
    rows: int,
    columns: int,
    rank: int,
    bits: tuple[int, int],
    group: int,
    with_hessian: bool,
) -> None:
    weight_RC = _weight(rows, columns)
    plain = storage.quantize(weight_RC)
    assert isinstance(plain, Quantized)
    hessian_CC = _hessian(columns) if with_hessian else None
    found = corrected(weight_RC, plain, LowRankCorrection(rank, 1, *bits, group), hessian_CC)
    turned_CC = hessian_CC
    if hessian_CC is not None and plain.rotated:
        turned_CC = rotated(rotated(hessian_CC).T)
    before, after = (hessian_error(error_of(weight_RC, matrix), turned_CC) for matrix in (plain, found))
    assert after < before or (found is plain and found.correction is None)
    read = unpack(pack(Contents({}, b"", {"w": found}, {"w": "mlp_up"}, {}))[0]).tensors["w"]
    assert isinstance(read, Quantized)
    assert torch.equal(read.dequantize(), found.dequantize())


@EVERY_STORAGE
def test_a_low_rank_error_is_mostly_put_back(storage: Storage) -> None:
    weight_RC = _weight(96, 64)
    plain = storage.quantize(weight_RC)
    assert isinstance(plain, Quantized)
    moved_RC = weight_RC + _weight(96, 2, 1) @ _weight(2, 64, 2)
    found = corrected(moved_RC, plain, LowRankCorrection(rank=2, a_bits=6, b_bits=6))
    assert _error(moved_RC, found) < 1.1 * _error(weight_RC, plain)
    published = corrected(moved_RC, plain, LowRankCorrection())
    assert _error(moved_RC, published) < 0.5 * _error(moved_RC, plain)


def test_without_an_error_there_is_nothing_to_correct() -> None:
    matrix = Grid(4, StandardDeviations(4.0)).quantize(_weight(8, 16))
    exact = matrix.dequantize()
    assert corrected(exact, matrix, LowRankCorrection()) is matrix


def test_a_hessian_decides_which_error_counts() -> None:
    weight_RC, hessian_CC = _weight(96, 64), _hessian(64)
    matrix = Grid(3, StandardDeviations(3.5)).quantize(weight_RC)
    blind = corrected(weight_RC, matrix, LowRankCorrection())
    seeing = corrected(weight_RC, matrix, LowRankCorrection(), hessian_CC)
    losses = [hessian_error(error_of(weight_RC, found), hessian_CC) for found in (seeing, blind, matrix)]
    assert losses == sorted(losses)
    assert losses[0] < 0.9 * losses[2]
    assert _error(weight_RC, blind) < _error(weight_RC, seeing)


def test_the_product_is_that_of_the_factors() -> None:
    a_RK, b_KC = torch.tensor([[1, -2], [0, 1]]).to(torch.int8), torch.tensor([[7, -8, 1], [2, 0, -3]])
    scales_G = torch.tensor([0.5, 0.25]).half()
    low = LowRank(a_RK, b_KC.to(torch.int8), torch.tensor([2.0]).half(), scales_G, 2, 4, 4)
    factor_KC = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.25, 0.25]])
    assert torch.equal(low.product(), (2.0 * a_RK.float()) @ (b_KC * factor_KC))


def _model() -> tuple[dict[str, torch.Tensor], dict[str, Stored]]:
    sizes = {"small": 0.1, "large": 3.0, "middle": 1.0, "float": 5.0}
    parameters = {name: size * _weight(40, 64, seed) for seed, (name, size) in enumerate(sizes.items())}
    grid = Grid(4, StandardDeviations(5.0))
    compressed: dict[str, Stored] = {name: grid.quantize(parameters[name]) for name in list(sizes)[:3]}
    return parameters, compressed | {"float": parameters["float"].half()}


def _corrected_names(found: dict[str, Stored]) -> set[str]:
    return {name for name, m in found.items() if isinstance(m, Quantized) and m.correction is not None}


def test_the_matrices_with_the_largest_error_are_corrected() -> None:
    parameters, compressed = _model()
    norms = LowRankCorrection(matrices=2, largest="norm")
    assert _corrected_names(correct_largest(parameters, compressed, norms)) == {"large", "middle"}
    sensitive = {"small": 1e6, "large": 1e-6, "middle": 1.0}
    by_loss = correct_largest(parameters, compressed, LowRankCorrection(matrices=2), sensitivities=sensitive)
    assert _corrected_names(by_loss) == {"small", "middle"}
    same = correct_largest(parameters, compressed, norms, sensitivities=sensitive)
    assert _corrected_names(same) == {"large", "middle"}
    assert by_loss.keys() == compressed.keys()
    assert by_loss["large"] is compressed["large"]


def test_the_account_shows_what_corrections_take() -> None:
    parameters, compressed = _model()
    spec = LowRankCorrection(matrices=1)
    roles = dict.fromkeys(compressed, "mlp_up")
    plain = dict(pack(Contents({}, b"", compressed, roles, {}))[1].parts)
    found = dict(pack(Contents({}, b"", correct_largest(parameters, compressed, spec), roles, {}))[1].parts)
    assert "corrections" not in plain
    assert 0 < found["corrections"] <= correction_bytes((40, 64), spec)
    assert found["mlp_up"] == plain["mlp_up"]


def test_steps_of_a_corrected_matrix_are_ranked_with_its_correction() -> None:
    weight_RC = _weight(8, 32)
    whole = corrected(weight_RC, Grid(3, StandardDeviations(3.0)).quantize(weight_RC), LowRankCorrection())
    assert whole.correction is not None
    pruned = SingleSteps({"w": weight_RC}, {"w": whole}).without(1)["w"]
    assert isinstance(pruned, Quantized)
    errors = []
    for place in (whole.ints.abs() == 1).nonzero():
        ints = whole.ints.clone()
        ints[tuple(place)] = 0
        errors.append(_error(weight_RC, replace(whole, ints=ints)))
    assert _error(weight_RC, pruned) == pytest.approx(min(errors), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 17}, "rank is 17"),
        ({"matrices": 0}, "matrices is 0"),
        ({"a_bits": 1}, "a_bits is 1"),
        ({"b_bits": 8}, "b_bits is 8"),
        ({"group": 0}, "group is 0"),
    ],
)
def test_settings_that_cannot_work_are_named(change: dict[str, int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        LowRankCorrection(**change)  # pyrefly: ignore[bad-argument-type]


def test_settings_survive_json() -> None:
    spec = LowRankCorrection(rank=2, largest="norm")
    assert tree.from_json(LowRankCorrection, tree.to_json(spec), "correction") == spec


def test_integers_beyond_their_bits_are_not_stored() -> None:
    weight_RC = _weight(16, 32)
    found = corrected(weight_RC, Grid(3, StandardDeviations(3.0)).quantize(weight_RC), LowRankCorrection())
    low = found.correction
    assert low is not None
    for bad in (
        replace(low, a_RK=torch.full_like(low.a_RK, 2)),
        replace(low, b_KC=torch.full_like(low.b_KC, 8)),
        replace(low, a_scale=torch.zeros(1).half()),
    ):
        broken = replace(found, correction=bad)
        with pytest.raises(ArtifactError, match="of a correction"):
            pack(Contents({}, b"", {"w": broken}, {"w": "mlp_up"}, {}))
