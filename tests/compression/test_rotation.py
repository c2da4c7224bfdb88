"""Rotated grids: Q is orthonormal and its own inverse; training, noise, export and file share one grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.artifact.container import Contents, pack, unpack
from bytegolf.compression.grid import (
    AbsMax,
    BestQuantile,
    Clip,
    Grid,
    LeastSquares,
    Quantized,
    StandardDeviations,
)
from bytegolf.compression.pruning import SingleSteps
from bytegolf.compression.rotation import block_of, rotated
from bytegolf.compression.storage import shaken

_CLIPS = st.sampled_from([AbsMax(), StandardDeviations(9.0), LeastSquares(), BestQuantile(best_of="matrix")])


def _matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    weight_RC = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight_RC[:, 0] *= 8
    return weight_RC


@given(columns=st.integers(1, 3000))
def test_blocks_are_the_largest_powers_of_two_that_divide_the_columns(columns: int) -> None:
    block = block_of(columns)
    assert columns % block == 0
    assert (columns // block) % 2 == 1
    assert block.bit_count() == 1


@settings(max_examples=40, deadline=None)
@given(columns=st.integers(1, 200) | st.sampled_from([256, 384, 512]))
def test_the_rotation_is_orthonormal_and_its_own_inverse(columns: int) -> None:
    q_CC = rotated(torch.eye(columns, dtype=torch.float64))
    identity = torch.eye(columns, dtype=torch.float64)
    assert torch.equal(q_CC, q_CC.T)
    assert torch.allclose(q_CC @ q_CC.T, identity, atol=1e-12)
    weight_RC = _matrix(5, columns, columns).double()
    assert torch.allclose(rotated(weight_RC), weight_RC @ q_CC, atol=1e-12)
    assert torch.allclose(rotated(weight_RC) @ q_CC.T, weight_RC, atol=1e-12)


def test_the_first_rows_are_those_of_the_walsh_hadamard_matrix() -> None:
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert torch.equal(rotated(torch.eye(4)), signs / 2)


def test_rows_are_rotated_to_the_same_bits_alone_and_beside_others() -> None:
    weight_RC = _matrix(37, 96, 0)
    together = rotated(weight_RC)
    for row in range(37):
        assert torch.equal(rotated(weight_RC[row : row + 1])[0], together[row])


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(2, 8),
    clip=_CLIPS,
    rows=st.integers(1, 20),
    columns=st.integers(1, 130),
    seed=st.integers(0, 99),
)
def test_training_sees_what_the_file_gives_back(
    bits: int, clip: Clip, rows: int, columns: int, seed: int
) -> None:
    weight_RC = _matrix(rows, columns, seed)
    grid = Grid(bits, clip, rotated=True)
    quantized = grid.quantize(weight_RC)
    contents = Contents({}, b"", {"weight": quantized}, {"weight": "mlp_up"}, {})
    found = unpack(pack(contents)[0]).tensors["weight"]
    assert isinstance(found, Quantized)
    assert found.rotated
    assert torch.equal(found.dequantize(), grid.fake_quantize(weight_RC))
    # It is the plain grid of the rotated matrix.
    plain = Grid(bits, clip).quantize(rotated(weight_RC))
    assert torch.equal(plain.ints, quantized.ints)
    assert torch.allclose(rotated(quantized.dequantize()), plain.dequantize(), atol=1e-4)


def test_the_gradient_passes_a_rotated_grid_unchanged() -> None:
    weight_RC = _matrix(4, 24, 0).requires_grad_()
    (Grid(3, StandardDeviations(3.0), rotated=True).fake_quantize(weight_RC) * 2).sum().backward()
    assert weight_RC.grad is not None
    assert torch.equal(weight_RC.grad, torch.full((4, 24), 2.0))


def test_an_outlier_column_costs_a_rotated_grid_less() -> None:
    weight_RC = _matrix(64, 256, 0)
    weight_RC[:, 7] *= 30
    errors = [
        float((Grid(5, AbsMax(), rotated=turned).fake_quantize(weight_RC) - weight_RC).square().sum())
        for turned in (False, True)
    ]
    assert errors[1] < errors[0] / 3


def test_noise_moves_weights_by_steps_of_the_rotated_grid() -> None:
    weight_RC, grid = _matrix(50, 96, 0), Grid(5, StandardDeviations(9.0), rotated=True)
    noise_RC = torch.rand(50, 96, generator=torch.Generator().manual_seed(1)) - 0.5
    moved_RC = rotated(shaken(grid, weight_RC, noise_RC)) - rotated(weight_RC)
    scales_R1 = grid.quantize(weight_RC).scales.float()[:, None]
    assert torch.allclose(moved_RC / scales_R1, noise_RC, atol=1e-3)


def test_single_steps_are_ranked_along_the_rotated_axes() -> None:
    weight_RC, grid = _matrix(8, 32, 0), Grid(3, StandardDeviations(3.0), rotated=True)
    whole = grid.quantize(weight_RC)
    steps = SingleSteps({"w": weight_RC}, {"w": whole})
    before = float((whole.dequantize() - weight_RC).square().sum())
    pruned = steps.without(1)["w"]
    assert isinstance(pruned, Quantized)
    rises = []
    for place in (whole.ints.abs() == 1).nonzero():
        ints = whole.ints.clone()
        ints[tuple(place)] = 0
        other = Quantized(ints, whole.scales, whole.bits, rotated=True)
        rises.append(float((other.dequantize() - weight_RC).square().sum()) - before)
    rise = float((pruned.dequantize() - weight_RC).square().sum()) - before
    assert rise == pytest.approx(min(rises), rel=1e-3)
