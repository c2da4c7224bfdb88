"""Rounding by Hessians: less error in what comes out of a matrix, and otherwise what the grid itself does."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf import tree
from bytegolf.compression import gptq as module
from bytegolf.compression.compress import compress_model
from bytegolf.compression.gptq import Gptq, gptq_quantize, gptq_quantize_alike
from bytegolf.compression.grid import AbsMax, Grid, LeastSquares, Quantized, StandardDeviations
from bytegolf.compression.pruning import prune_smallest
from bytegolf.compression.rotation import rotated
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.compression.ternary import Ternary
from bytegolf.errors import DivergedError, RecipeError

GRIDS = [Grid(6, StandardDeviations(12.85)), Grid(3, AbsMax()), Grid(4, LeastSquares(), rotated=True)]
EVERY_GRID = pytest.mark.parametrize("grid", GRIDS, ids=Grid.describe)
ORDERS = [Gptq(), Gptq(act_order=False), Gptq(block=5)]


def weights(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(torch.randn(rows, 1, generator=generator))
    return 0.05 * spread * torch.randn(rows, columns, generator=generator)


def correlated(columns: int, seed: int = 0, inputs: int = 400) -> Tensor:
    """The mean of x xᵀ over inputs whose channels are mixed, and of unlike size."""
    generator = torch.Generator().manual_seed(100 + seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    size = torch.exp(torch.randn(columns, generator=generator))
    x = torch.randn(inputs, columns, generator=generator) @ (mixing + torch.eye(columns)) * size
    return x.mT @ x / inputs


def output_error(weight: Tensor, matrix: Quantized, hessian: Tensor) -> float:
    """The mean of ‖W x - quantized W x‖² over the inputs."""
    error = (weight - matrix.dequantize()).double()
    return float(((error @ hessian.double()) * error).sum())


def equal(first: Quantized, second: Quantized) -> bool:
    same = torch.equal(first.ints, second.ints) and torch.equal(first.scales, second.scales)
    return same and (first.bits, first.rotated) == (second.bits, second.rotated)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    grid=st.sampled_from(GRIDS),
    spec=st.sampled_from(ORDERS),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    size=st.sampled_from([1e-6, 1.0, 300.0]),
)
def test_with_the_identity_it_rounds_to_nearest_bit_for_bit(
    seed: int, grid: Grid, spec: Gptq, shape: tuple[int, int], size: float
) -> None:
    weight = weights(*shape, seed=seed)
    assert equal(gptq_quantize(weight, size * torch.eye(shape[1]), grid, spec), grid.quantize(weight))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from(GRIDS), spec=st.sampled_from(ORDERS))
def test_outputs_err_less_than_with_the_nearest_points(seed: int, grid: Grid, spec: Gptq) -> None:
    weight, hessian = weights(16, 48, seed), correlated(48, seed)
    solved, nearest = gptq_quantize(weight, hessian, grid, spec), grid.quantize(weight)
    assert torch.equal(solved.scales, nearest.scales)
    assert int(solved.ints.abs().max()) <= grid.limit
    assert output_error(weight, solved, hessian) < output_error(weight, nearest, hessian)


def test_each_column_is_the_best_that_those_before_leave() -> None:
    """Against the definition: round a column, then solve least squares for all that are left."""
    weight, hessian, grid = weights(5, 12), correlated(12).double(), Grid(4, AbsMax())
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(12)
    scale, left = grid.quantize(weight).scales.double()[:, None], weight.double()
    expected = torch.zeros(5, 12, dtype=torch.float64)
    for j in range(12):
        expected[:, j : j + 1] = torch.round(left[:, j : j + 1] / scale).clamp(-7, 7)
        error = left[:, j : j + 1] - expected[:, j : j + 1] * scale
        # The change of the others that keeps the error's output least: the normal equations of these columns.
        later = damped[j + 1 :, j + 1 :]
        left[:, j + 1 :] += error @ torch.linalg.solve(later, damped[j + 1 :, j : j + 1]).mT
    solved = gptq_quantize(weight, hessian.float(), grid, Gptq(act_order=False, block=5))
    assert torch.equal(solved.ints.double(), expected)


def test_the_order_of_columns_is_undone() -> None:
    weight, hessian, grid = weights(6, 30), correlated(30), GRIDS[0]
    order = hessian.diagonal().argsort(descending=True)
    sorted_by_hand = gptq_quantize(
        weight[:, order], hessian[order][:, order], Grid(6, AbsMax()), Gptq(act_order=False)
    )
    solved = gptq_quantize(weight, hessian, Grid(6, AbsMax()), Gptq())
    assert torch.equal(solved.ints[:, order], sorted_by_hand.ints)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    moved = gptq_quantize(weight[:, shuffled], hessian[shuffled][:, shuffled], grid, Gptq())
    assert torch.equal(moved.ints, gptq_quantize(weight, hessian, grid, Gptq()).ints[:, shuffled])


@pytest.mark.parametrize("spec", ORDERS, ids=repr)
def test_columns_that_nothing_is_multiplied_with_become_zero(spec: Gptq) -> None:
    weight, hessian, grid = weights(8, 20), correlated(20), GRIDS[0]
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[0, 7, 19]] = True
    hessian[dead] = hessian[:, dead] = 0
    solved = gptq_quantize(weight, hessian, grid, spec)
    assert not solved.ints[:, dead].any()
    # The scale stays that of the whole row, and the columns beside them are none the worse.
    assert torch.equal(solved.scales, grid.quantize(weight).scales)
    assert output_error(weight, solved, hessian) < output_error(weight, grid.quantize(weight), hessian)


def test_pruned_weights_stay_zero_and_the_others_make_up_for_them() -> None:
    weight, hessian, grid = weights(16, 40), correlated(40), GRIDS[0]
    pruned = prune_smallest(weight, 0.3)
    solved = gptq_quantize(pruned, hessian, grid, Gptq())
    assert not solved.ints[pruned == 0].any()
    assert output_error(pruned, solved, hessian) < output_error(pruned, grid.quantize(pruned), hessian)


def test_a_rotated_grid_is_solved_in_its_own_space() -> None:
    weight, hessian = weights(8, 32), correlated(32)
    plain, turned = Grid(4, AbsMax()), Grid(4, AbsMax(), rotated=True)
    solved = gptq_quantize(weight, hessian, turned, Gptq())
    by_hand = gptq_quantize(rotated(weight), rotated(rotated(hessian.double()).mT), plain, Gptq())
    assert solved.rotated
    assert torch.equal(solved.ints, by_hand.ints)


def test_it_gives_the_same_bits_again_and_changes_nothing_it_is_given() -> None:
    weight, hessian = weights(16, 300), correlated(300)
    kept_weight, kept_hessian = weight.clone(), hessian.clone()
    first = gptq_quantize(weight, hessian, GRIDS[0], Gptq())
    assert equal(first, gptq_quantize(weight, hessian, GRIDS[0], Gptq()))
    assert torch.equal(weight, kept_weight)
    assert torch.equal(hessian, kept_hessian)


@EVERY_GRID
def test_many_at_once_are_each_as_alone(grid: Grid) -> None:
    matrices = [weights(7, 24, seed) for seed in range(3)]
    hessians = [correlated(24, seed) for seed in range(3)]
    together = gptq_quantize_alike(matrices, hessians, grid, Gptq())
    for weight, hessian, solved in zip(matrices, hessians, together, strict=True):
        alone = gptq_quantize(weight, hessian, grid, Gptq())
        assert float((alone.ints != solved.ints).float().mean()) < 0.01
        assert torch.equal(alone.scales, solved.scales)


def test_a_singular_hessian_is_damped_until_it_can_be_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, grid = weights(4, 64), GRIDS[0]
    few = correlated(64, inputs=3)
    tried = []
    factor = torch.linalg.cholesky_ex

    def counted(matrix: Tensor) -> tuple[Tensor, Tensor]:
        tried.append(matrix)
        return factor(matrix)

    monkeypatch.setattr(module.torch.linalg, "cholesky_ex", counted)
    # Beside what float32 sums lose, so little damping leaves some eigenvalues below zero.
    solved = gptq_quantize(weight, few, grid, Gptq(damping=1e-12))
    assert len(tried) > 1
    assert output_error(weight, solved, few) < output_error(weight, grid.quantize(weight), few)


def test_what_is_no_hessian_is_refused() -> None:
    with pytest.raises(DivergedError, match="not positive"):
        gptq_quantize(weights(4, 8), -torch.eye(8), GRIDS[0], Gptq())
    with pytest.raises(DivergedError, match="NaN"):
        gptq_quantize(weights(4, 8), torch.full((8, 8), torch.nan), GRIDS[0], Gptq())
    with pytest.raises(DivergedError, match="NaN"):
        gptq_quantize(torch.full((4, 8), torch.nan), torch.eye(8), GRIDS[0], Gptq())


def test_importance_widens_the_clip_of_rows_that_matter() -> None:
    weight, hessian, grid = weights(32, 64), correlated(64), Grid(6, StandardDeviations(12.85))
    plain = gptq_quantize(weight, hessian, grid, Gptq()).scales.float()
    wider = gptq_quantize(weight, hessian, grid, Gptq(importance=0.5)).scales.float()
    importance = weight.abs() @ hessian.diagonal()
    expected = 1 + 0.5 * (importance / importance.mean() - 1)
    # Both are rounded to steps of 6 % at most.
    assert torch.allclose(wider / plain, expected, rtol=0.07)
    assert torch.equal(
        gptq_quantize(torch.zeros(3, 8), torch.eye(8), grid, Gptq(importance=0.5)).ints.sum(), torch.tensor(0)
    )


def test_compression_uses_it_where_there_is_a_grid_and_a_hessian() -> None:
    parameters = {
        name: torch.nn.Parameter(weights(16, 32, seed))
        for seed, name in enumerate(("out", "table", "ternary", "up"))
    }
    parameters["small"] = torch.nn.Parameter(weights(2, 2))
    roles = {
        "out": "attention_out",
        "up": "attention_out",
        "table": "bigram",
        "ternary": "mlp_up",
        "small": "attention_out",
    }
    grid = Grid(4)
    plan = {"attention_out": grid, "bigram": grid, "mlp_up": Ternary(8)}
    hessians = {name: correlated(32, seed) for seed, name in enumerate(("out", "ternary", "up"))}
    plain = compress_model(parameters, roles, plan, passthrough_elements=16)
    solved = compress_model(parameters, roles, plan, passthrough_elements=16, hessians=hessians, gptq=Gptq())
    assert list(solved) == list(plain) == list(parameters)
    for name in ("table", "ternary"):
        first, second = plain[name], solved[name]
        assert isinstance(first, Quantized)
        assert isinstance(second, Quantized)
        assert equal(first, second)
    for name in ("out", "up"):
        found = solved[name]
        assert isinstance(found, Quantized)
        assert equal(found, gptq_quantize(parameters[name], hessians[name], grid, Gptq()))
        assert not equal(found, grid.quantize(parameters[name]))
    assert isinstance(solved["small"], Tensor)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gptq(damping=0.0), "damping is 0"),
        (lambda: Gptq(damping=float("nan")), "damping is nan"),
        (lambda: Gptq(block=0), "block is 0"),
        (lambda: Gptq(rows=0), "16 batches of 0 rows"),
        (lambda: Gptq(importance=1.0), "importance is 1"),
        (lambda: Compression(FixedBits(Ternary()), gptq=Gptq()), "no integer grid"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


def test_settings_survive_json() -> None:
    spec = Compression(gptq=Gptq(importance=0.175, calibration="generated", batches=4))
    assert tree.from_json(Compression, tree.to_json(spec)) == spec


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.gpu
@GPU
@EVERY_GRID
def test_the_gpu_rounds_as_the_processor_does(grid: Grid) -> None:
    weight, hessian = weights(300, 256), correlated(256, inputs=2000)
    on_gpu = gptq_quantize(weight, hessian.cuda(), grid, Gptq())
    on_cpu = gptq_quantize(weight, hessian, grid, Gptq())
    assert on_gpu.ints.device == weight.device
    # A weight that falls to the other side of a border by its last bit moves those behind it.
    assert float((on_gpu.ints != on_cpu.ints).float().mean()) < 0.05
    assert output_error(weight, on_gpu, hessian) == pytest.approx(
        output_error(weight, on_cpu, hessian), rel=0.01
    )


@pytest.mark.gpu
@GPU
def test_a_network_of_35_million_weights_takes_seconds_on_a_gpu() -> None:
    shapes = {"query": (512, 512), "keys": (256, 512), "out": (512, 512), "up": (2048, 512)}
    shapes |= {"down": (512, 2048)}
    parameters = {
        f"{layer}.{name}": torch.nn.Parameter(0.05 * torch.randn(shape))
        for layer in range(11)
        for name, shape in shapes.items()
    }
    parameters["embedding"] = torch.nn.Parameter(0.05 * torch.randn(8192, 512))
    hessians = {}
    for name, value in parameters.items():
        x = torch.randn(4096, value.shape[1], device="cuda")
        hessians[name] = x.mT @ x / 4096
    roles = dict.fromkeys(parameters, "mlp_up")
    began = time.perf_counter()
    compress_model(parameters, roles, {"mlp_up": GRIDS[0]}, hessians=hessians, gptq=Gptq())
    assert time.perf_counter() - began < 20
