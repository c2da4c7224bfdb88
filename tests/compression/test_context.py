"""The integer arithmetic of the coder's model, on which the readability of old files rests."""

import math

import numpy as np
import pytest
import torch

from bytegolf.compression import context
from bytegolf.compression.context import ContextModel, code_bits, row_blocks, scale_steps
from bytegolf.compression.grid import Grid


def test_levels_are_rounded_logarithms() -> None:
    values = np.array([1, 2, 3, 5, 100, 12345, 2**20, 2**40 + 17])
    assert context._level(values).tolist() == [round(16 * math.log2(v)) for v in values.tolist()]


@pytest.mark.parametrize(
    ("numerator", "denominator", "bits"), [(7, 2, 0), (5, 32, 3), (0, 16, 4), (31, 32, 20)]
)
def test_powers_are_floors_of_the_true_ones(numerator: int, denominator: int, bits: int) -> None:
    assert context._power(numerator, denominator, bits) == math.floor(2 ** (bits + numerator / denominator))


@pytest.mark.parametrize("limit", [1, 3, 7, 15, 31, 63, 127])
def test_start_histograms_are_symmetric_never_zero_and_wider_for_larger_classes(limit: int) -> None:
    counts = context._start_counts(limit)
    assert counts.shape == (context.CLASSES, 2 * limit + 1)
    assert counts.min() >= 1
    assert np.array_equal(counts, counts[:, ::-1])
    spread = (counts * np.abs(np.arange(-limit, limit + 1))).sum(1) / counts.sum(1)
    assert (np.diff(spread) > -1e-3).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (1000, 3), (5000, 400), (3, 1 << 20)])
def test_blocks_cover_each_row_once_and_stay_small(rows: int, columns: int) -> None:
    blocks = list(row_blocks(rows, columns))
    assert [start for start, _ in blocks] == [0, *[stop for _, stop in blocks[:-1]]]
    assert blocks[-1][1] == rows
    assert all((stop - start) * columns <= max(columns, 1 << 20) for start, stop in blocks)


def test_classes_follow_the_size_of_rows_and_columns() -> None:
    block = np.full((64, 8), 2, dtype=np.int64)
    block[:, 4:] = 16
    model = ContextModel(8, 31)
    codes = model.row_codes(block)
    classes, flipped = model.classes((codes,))
    assert flipped is None
    model.update(block, (codes,), model.counts.seen(block, classes))
    classes = model.classes((codes[:1],))[0][0].astype(int)
    # Three octaves apart, three classes an octave; the columns' start values pull them together a little.
    assert 8 <= classes[4] - classes[0] <= 9


def test_small_matrices_cost_little_more_than_a_known_distribution() -> None:
    ints = np.clip(np.round(np.random.default_rng(0).normal(size=(64, 64)) * 2.4), -31, 31).astype(np.int8)
    density = np.exp(-(np.arange(-31, 32) ** 2) / (2 * (2.4**2 + 1 / 12)))
    known = -np.log2(density / density.sum())[ints.reshape(-1).astype(int) + 31].sum()
    assert code_bits(ints, 31) < known * 1.02


def test_scales_of_other_origin_are_left_to_other_coders() -> None:
    scales = Grid(6).quantize(torch.randn(50, 20)).scales.numpy()
    split = scale_steps(scales)
    assert split is not None
    assert split[1].shape == (2, 32)
    assert scale_steps(np.array([0.1234], dtype=np.float16)) is None
    assert scale_steps(np.array([2.0**-20, 1.0, 2.0**-20], dtype=np.float16)) is None
