"""Nearly equal rows are found, taken apart and put together again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bytegolf.artifact import coding, ranges
from bytegolf.artifact.coding import Method
from bytegolf.compression.common_row import CommonRow, join_common_row, split_common_row
from bytegolf.compression.costs import TENSOR_OVERHEAD_BYTES, estimate_bytes
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.errors import ArtifactError


def _embedding() -> torch.Tensor:
    """1000 tokens, of which 200 (scattered) are a common row and a little noise."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 96, generator=generator)
    unused = torch.randperm(1000, generator=generator)[:200]
    weight[unused] = weight[0] + 0.15 * torch.randn(200, 96, generator=generator)
    return weight


@settings(max_examples=60, deadline=None)
@given(ints=arrays.arrays(np.int8, (14, 5), elements=st.integers(-7, 7)), members=st.data())
def test_taking_apart_and_joining_changes_nothing(ints: np.ndarray, members: st.DataObject) -> None:
    rows = [list(ints[0]) if members.draw(st.booleans()) else list(row) for row in ints]
    alike = np.array(rows, dtype=np.int8)
    common = split_common_row(alike, 7)
    if common is not None:
        assert np.abs(common.ints_RC).max() <= 7
        assert np.array_equal(join_common_row(common, 7), alike)


def test_differences_wrap_around_and_stay_on_the_grid() -> None:
    ints = np.full((20, 6), 7, dtype=np.int8)
    ints[:, 1] = -7
    ints[3, 0] = -7
    common = split_common_row(ints, 7)
    assert common is not None
    assert common.members_R[0]
    assert np.abs(common.ints_RC).max() <= 7
    assert np.array_equal(join_common_row(common, 7), ints)


def test_unused_tokens_are_found_and_cost_little() -> None:
    quantized = Grid(6, StandardDeviations(12.85)).quantize(_embedding())
    ints = quantized.ints.numpy()
    common = split_common_row(ints, 31)
    assert common is not None
    assert 200 <= int(common.members_R.sum()) <= 201
    coded = coding.encode_ints(ints, 31)
    assert coded[0] == Method.COMMON_ROW
    assert np.array_equal(coding.decode_ints(coded, ints.shape, 31), ints)
    assert len(coded) < 0.93 * (1 + len(ranges.encode(ints, 31)))
    scales = coding.encode_scales(quantized.scales.numpy())
    assert estimate_bytes(quantized) - TENSOR_OVERHEAD_BYTES == pytest.approx(
        len(coded) + len(scales), rel=0.01
    )


def test_ordinary_matrices_have_no_common_row() -> None:
    assert split_common_row(Grid(6).quantize(torch.randn(300, 64)).ints.numpy(), 31) is None


@pytest.mark.parametrize("cut", [0, 3, 4, 10, 40])
def test_damaged_streams_are_refused(cut: int) -> None:
    ints = Grid(6).quantize(_embedding()).ints.numpy()
    coded = coding.encode_ints(ints, 31)
    assert coded[0] == Method.COMMON_ROW
    with pytest.raises(ArtifactError):
        coding.decode_ints(coded[: 1 + cut], ints.shape, 31)
    with pytest.raises(ArtifactError):
        coding.decode_ints(coded[:1] + b"\xff\xff\xff\xff" + coded[5:], ints.shape, 31)


def test_any_stored_differences_join_to_the_grid() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(-7, 8, (31, 9)).astype(np.int8)
    joined = join_common_row(CommonRow(random.random(30) < 0.5, rows), 7)
    assert np.abs(joined).max() <= 7
