"""Three values, two values, and the scales of their groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.compression.grid import Quantized
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import RecipeError


def _weights(rows: int, columns: int, seed: int) -> torch.Tensor:
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _same(first: Quantized, second: Quantized) -> bool:
    return torch.equal(first.ints, second.ints) and torch.equal(first.scales, second.scales)


def test_a_group_is_scaled_by_its_mean_magnitude_rounded_as_stored() -> None:
    weight = torch.tensor([[1.0, -0.4, 0.1, 0.5, -3.0, 3.0, 8.0]])
    matrix = Ternary(group=4).quantize(weight)
    assert matrix.group == 4
    assert matrix.scales.tolist() == [[0.5, 4.75]]
    assert matrix.ints.tolist() == [[1, -1, 0, 1, -1, 1, 1]]
    # 14/3 = 4.667 has the neighbours 4.5 and 4.75 among scales with four bits of mantissa.
    assert Binary(group=4).quantize(weight).scales.tolist() == [[0.5, 4.75]]


def test_groups_stay_within_rows_and_the_last_may_be_short() -> None:
    matrix = Binary(group=128).quantize(_weights(5, 300, 0))
    assert matrix.scales.shape == (5, 3)
    assert Binary(group=1000).quantize(_weights(5, 300, 0)).scales.shape == (5, 1)
    assert torch.equal(
        matrix.dequantize()[:, 256:], Binary().quantize(_weights(5, 300, 0)[:, 256:]).dequantize()
    )


def test_binary_knows_no_zero() -> None:
    weight = torch.tensor([[0.0, -0.0, -2.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    matrix = Binary().quantize(weight)
    assert matrix.ints.tolist() == [[1, 1, -1, 1], [1, 1, 1, 1]]
    assert float(matrix.dequantize()[1].abs().max()) < 1e-6


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    group=st.sampled_from([1, 3, 8, 64]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    exponent=st.integers(-25, 15),
)
def test_ternary_values_quantize_to_themselves_by_refit(
    seed: int, group: int, shape: tuple[int, int], exponent: int
) -> None:
    storage = Ternary(group, scale="refit")
    once = storage.quantize(_weights(*shape, seed) * 2.0**exponent)
    assert _same(storage.quantize(once.dequantize()), once)
    signs = Binary(group).quantize(_weights(*shape, seed) * 2.0**exponent)
    assert _same(Binary(group).quantize(signs.dequantize()), signs)


def test_ternary_values_shrink_when_zeros_count_in_their_mean() -> None:
    storage = Ternary(128)
    values = [storage.quantize(_weights(40, 512, 1)).dequantize()]
    for _ in range(3):
        values.append(storage.quantize(values[-1]).dequantize())
    sizes = [float(value.norm()) for value in values]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[3] < 0.8 * sizes[1]
    # The integers stay; it is the scales that shrink.
    assert torch.equal(values[0].sign(), values[3].sign())


def test_refit_scales_err_least() -> None:
    weight = _weights(50, 512, 2)
    plain, refit = (Ternary(128, scale=scale).quantize(weight) for scale in ("mean", "refit"))
    assert torch.equal(plain.ints, refit.ints)

    def error(factor: float) -> float:
        scaled = Quantized(refit.ints, refit.scales * factor, 2, 128)
        return float((weight - scaled.dequantize()).square().sum())

    assert error(1.0) < min(error(0.93), error(1.07))
    assert error(1.0) < 0.85 * float((weight - plain.dequantize()).square().sum())


@pytest.mark.parametrize("make", [lambda: Ternary(0), lambda: Binary(-1)])
def test_groups_of_no_columns_are_refused(make) -> None:
    with pytest.raises(RecipeError, match="groups of"):
        make()
