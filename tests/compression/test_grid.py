"""The grid that training sees is the grid that is stored."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf import tree
from bytegolf.compression import grid as grids
from bytegolf.compression.grid import (
    AbsMax,
    BestQuantile,
    Clip,
    Grid,
    LeastSquares,
    Quantile,
    Quantized,
    StandardDeviations,
    round_scale,
    round_scale_up,
)
from bytegolf.errors import DivergedError, RecipeError

CLIPS: list[Clip] = [
    AbsMax(),
    StandardDeviations(12.85),
    StandardDeviations(2.5),
    LeastSquares(),
    Quantile(),
    BestQuantile(),
    BestQuantile(best_of="matrix"),
]


def _weights(rows: int, columns: int, *, seed: int = 0, spread: float = 0.05) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    row_scale = torch.exp(torch.randn(rows, 1, generator=generator)) * spread
    return torch.randn(rows, columns, generator=generator) * row_scale


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantization_equals_the_stored_grid_bit_for_bit(bits: int, clip: Clip) -> None:
    weight = _weights(33, 70)
    grid = Grid(bits, clip)
    assert torch.equal(grid.fake_quantize(weight), grid.quantize(weight).dequantize())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    clip=st.sampled_from(CLIPS),
    exponent=st.integers(-40, 20),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9)),
)
def test_fake_quantization_equals_the_stored_grid_at_every_magnitude(
    seed: int, bits: int, clip: Clip, exponent: int, shape: tuple[int, int]
) -> None:
    weight = _weights(*shape, seed=seed, spread=2.0**exponent)
    grid = Grid(bits, clip)
    quantized = grid.quantize(weight)
    assert torch.equal(grid.fake_quantize(weight), quantized.dequantize())
    assert int(quantized.ints.abs().max()) <= grid.limit
    assert bool(torch.isfinite(quantized.scales).all() and (quantized.scales > 0).all())


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_the_gradient_passes_unchanged(clip: Clip) -> None:
    weight = _weights(5, 40).requires_grad_()
    upstream = torch.randn(5, 40)
    Grid(4, clip).fake_quantize(weight).backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_rows_of_zeros_stay_zero_and_small_rows_keep_their_levels(clip: Clip) -> None:
    weight = _weights(4, 64, spread=0.002)
    weight[1] = 0
    quantized = Grid(6, clip).quantize(weight)
    assert torch.equal(quantized.dequantize()[1], torch.zeros(64))
    # A floor such as 1/31 on the scale would leave these rows with no level but zero.
    assert all(int(quantized.ints[row].abs().max()) >= 3 for row in (0, 2, 3))


@pytest.mark.parametrize("clip", [*CLIPS, StandardDeviations(1.0)], ids=repr)
def test_a_constant_row_keeps_its_value(clip: Clip) -> None:
    weight = torch.full((1, 32), -0.3)
    assert torch.allclose(Grid(8, clip).quantize(weight).dequantize(), weight, rtol=0.1)


def test_unclipped_weights_err_by_at_most_half_a_step() -> None:
    weight = _weights(20, 300)
    quantized = Grid(5, AbsMax()).quantize(weight)
    half_step = quantized.scales.float()[:, None] / 2
    assert bool(((weight - quantized.dequantize()).abs() <= half_step * (1 + 1e-5)).all())


def test_least_squares_is_never_worse_than_any_of_its_candidates() -> None:
    weight = torch.distributions.StudentT(4.0).sample((30, 200))
    candidates = (1.0, 0.8, 0.6, 0.4)

    def error(clip: Clip) -> torch.Tensor:
        return (weight - Grid(4, clip).quantize(weight).dequantize()).square().sum(1)

    best = error(LeastSquares(candidates))
    alone = torch.stack([error(LeastSquares((fraction,))) for fraction in candidates])
    assert torch.equal(best, alone.min(0).values)


def test_more_bits_give_less_error() -> None:
    weight = _weights(16, 256)
    errors = [
        float((weight - Grid(bits).quantize(weight).dequantize()).square().sum()) for bits in range(2, 9)
    ]
    assert errors == sorted(errors, reverse=True)


@settings(max_examples=300, deadline=None)
@given(st.floats(min_value=2.0**-20, max_value=63488.0, width=32))
def test_storable_scales_are_close_and_exact_in_half_precision(value: float) -> None:
    tensor = torch.tensor([value])
    nearest, above = round_scale(tensor), round_scale_up(tensor)
    assert torch.equal(nearest, nearest.half().float())
    assert torch.equal(above, above.half().float())
    assert abs(float(nearest) - value) <= value / 32
    assert value <= float(above) <= value * (1 + 1 / 16)
    assert torch.equal(round_scale_up(nearest), nearest)


def test_scales_stay_inside_the_storable_range() -> None:
    assert round_scale(torch.tensor([0.0, 1e9])).tolist() == [2.0**-20, 63488.0]


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_compiles_without_graph_breaks(clip: Clip) -> None:
    grid = Grid(6, clip)
    compiled = torch.compile(grid.fake_quantize, backend="aot_eager", fullgraph=True)
    weight = _weights(8, 16).requires_grad_()
    value = compiled(weight)
    assert torch.equal(value, grid.fake_quantize(weight))
    value.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_the_gpu_gives_the_stored_grid(clip: Clip) -> None:
    weight = _weights(300, 512).cuda()
    grid = Grid(6, clip)
    stored = grid.quantize(weight).dequantize()
    assert torch.equal(grid.fake_quantize(weight), stored)
    # Of sums over a row the last bit may differ between processors, which moves a few values by one step.
    on_cpu = grid.quantize(weight.cpu()).dequantize()
    assert float((on_cpu != stored.cpu()).float().mean()) < 0.01


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = torch.ones(2, 3)
    weight[1, 1] = float("nan")
    with pytest.raises(DivergedError, match="NaN"):
        Grid(8).quantize(weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid(1),
        lambda: Grid(9),
        lambda: StandardDeviations(0.0),
        lambda: StandardDeviations(float("nan")),
        lambda: LeastSquares(()),
        lambda: LeastSquares((1.2,)),
        lambda: Quantile(0.0),
        lambda: Quantile(1.5),
        lambda: BestQuantile(()),
    ],
)
def test_grids_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(RecipeError):
        make()


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_a_grid_survives_json(clip: Clip) -> None:
    grid = Grid(5, clip)
    assert tree.from_json(Grid, tree.to_json(grid)) == grid


def test_group_scales_cover_consecutive_columns_and_the_last_group_may_be_shorter() -> None:
    ints = torch.tensor([[1, -1, 0, 1, 1], [0, 1, 1, -1, 0]], dtype=torch.int8)
    scales = torch.tensor([[2.0, 3.0, 5.0], [0.5, 0.25, 7.0]], dtype=torch.float16)
    expected = torch.tensor([[2.0, -2.0, 0.0, 3.0, 5.0], [0.0, 0.5, 0.25, -0.25, 0.0]])
    assert torch.equal(Quantized(ints, scales, 2, group=2).dequantize(), expected)


@pytest.mark.parametrize(("bits", "limit"), [(1, 1), (2, 1), (3, 3), (8, 127)])
def test_the_largest_integer_follows_from_the_bits(bits: int, limit: int) -> None:
    assert Quantized(torch.zeros(1, 1, dtype=torch.int8), torch.ones(1).half(), bits).limit == limit


@pytest.mark.parametrize("share", [0.3, 0.5, 0.98, 0.9999984, 1.0])
@pytest.mark.parametrize("columns", [1, 2, 50, 513])
def test_quantiles_lie_between_order_statistics_as_everywhere(share: float, columns: int) -> None:
    weight = _weights(9, columns)
    expected = torch.quantile(weight.abs().double(), share, dim=1)
    found = grids._quantiles(weight, (share,))[0].double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    assert torch.equal(
        Quantile(share).scale(weight, 15), grids.round_scale_up(grids._quantiles(weight, (share,))[0] / 15)
    )


def test_the_whole_quantile_clips_nothing() -> None:
    weight = _weights(20, 300)
    assert torch.equal(Quantile(1.0).scale(weight, 31), AbsMax().scale(weight, 31))


def test_the_best_quantile_is_that_of_each_row_or_one_for_the_matrix() -> None:
    weight = torch.distributions.StudentT(3.0).sample((60, 400))
    shares = (0.98, 0.99, 0.999, 1.0)

    def error(clip: Clip) -> torch.Tensor:
        return (weight - Grid(4, clip).quantize(weight).dequantize()).square().sum(1)

    alone = torch.stack([error(Quantile(share)) for share in shares])
    assert torch.equal(error(BestQuantile(shares)), alone.min(0).values)
    whole = error(BestQuantile(shares, best_of="matrix"))
    assert torch.equal(whole, alone[alone.sum(1).argmin()])
    assert float(whole.sum()) > float(error(BestQuantile(shares)).sum())
