"""NTK-aware scaling and YaRN's ramp against values worked out by hand."""

import pytest
import torch

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.decoding import Reader
from bytegolf.model.rotary import NtkAware, Rotary, RotaryScaling, Yarn
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block


def frequencies(
    scaling: RotaryScaling | None, base: float, length: int | None, width: int = 8
) -> list[float]:
    rotary = Rotary(width, 8, base, scaling)
    rotary.fit_rows(length)
    return rotary.frequencies.tolist()


def test_ntk_slows_the_last_pair_by_the_stretch_and_the_first_not_at_all() -> None:
    scaling = NtkAware(train_length=1024)
    # r = 8, s = 2: base 16 becomes 16 · 2^(8/6), and pair i has that to the power −i/4.
    stretched = frequencies(scaling, 16.0, 2048)
    assert stretched == pytest.approx([1.0, 0.5 * 2 ** (-1 / 3), 0.25 * 2 ** (-2 / 3), 0.125 / 2])
    assert frequencies(scaling, 16.0, 1408)[-1] == pytest.approx(0.125 / 1.375)


def test_without_a_scaling_pairs_turn_by_powers_of_the_base() -> None:
    assert frequencies(None, 16.0, 4096) == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("length", [None, 1, 1024])
def test_ntk_changes_nothing_in_rows_as_long_as_those_trained_with(length: int | None) -> None:
    assert (
        frequencies(NtkAware(1024), 16.0, length) == frequencies(None, 16.0, None) == [1.0, 0.5, 0.25, 0.125]
    )


def test_ntk_goes_back_when_rows_are_short_again() -> None:
    rotary = Rotary(8, 8, 16.0, NtkAware(4))
    place = rotary.frequencies.data_ptr()
    rotary.fit_rows(8)
    assert rotary.frequencies.tolist() != [1.0, 0.5, 0.25, 0.125]
    rotary.fit_rows(None)
    assert rotary.frequencies.tolist() == [1.0, 0.5, 0.25, 0.125]
    # In place: compiled and recorded code reads this address.
    assert rotary.frequencies.data_ptr() == place


def test_yarn_slows_pairs_along_its_ramp() -> None:
    # 2i/r = 0, 1/4, 1/2, 3/4: the ramp over (1/4, 1) is 0, 0, 1/3, 2/3, and 1 + 3 · ramp is 1, 1, 2, 3.
    expected = [1.0, 0.5, 0.25 / 2, 0.125 / 3]
    for length in (None, 10, 10_000):
        assert frequencies(Yarn(factor=4.0), 16.0, length) == pytest.approx(expected)
    # A ramp from 1/2: 0, 0, 0, 1/2.
    assert frequencies(Yarn(3.0, 0.5), 16.0, None) == pytest.approx([1.0, 0.5, 0.25, 0.125 / 2])
    assert frequencies(Yarn(factor=1.0), 16.0, None) == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("scaling", [NtkAware(2), Yarn()])
def test_what_is_not_rotated_stays_so(scaling: RotaryScaling) -> None:
    assert frequencies(scaling, 16.0, 50, width=12)[4:] == [0.0, 0.0]
    assert all(frequencies(scaling, 16.0, 50, width=12)[:4])


def test_a_single_pair_has_no_base_to_stretch() -> None:
    assert NtkAware(2).frequencies(2, 100.0, 50).tolist() == [1.0]


@torch.no_grad()
def test_a_model_prepared_for_longer_rows_scores_otherwise_and_decodes_what_it_scores() -> None:
    torch.manual_seed(0)
    layer = Block(Attention(heads=2, key_value_heads=1, rotary_base=50.0, rotary_scaling=NtkAware(8)))
    model = Model(width=16, layers=(layer,) * 2, vocabulary=9).build().double()
    model.compute_dtype = torch.float64
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    ids, starts = torch.randint(0, 9, (2, 20)), torch.zeros(2, 20, dtype=torch.bool)
    plain = model.log_probabilities(ids, starts)
    model.fit_rows(20)
    whole = model.log_probabilities(ids, starts)
    # The length that was prepared for counts, not that of the row.
    torch.testing.assert_close(model.log_probabilities(ids[:, :5], starts[:, :5]), whole[:, :5])
    assert float((whole - plain).abs().max()) > 1e-3
    reader = Reader(model, 2, 20, fixed=True)
    read = [reader.begin(ids[:, :3], starts[:, :3])]
    read += [reader.step(ids[:, t], starts[:, t]).clone() for t in range(3, 20)]
    torch.testing.assert_close(torch.stack(read, 1), whole[:, 2:], rtol=0, atol=1e-11)
    model.fit_rows(None)
    assert torch.equal(model.log_probabilities(ids, starts), plain)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NtkAware(0), "train_length=0"),
        (lambda: Yarn(factor=0.5), "factor=0.5"),
        (lambda: Yarn(ramp_start=1.0), "ramp_start=1.0"),
        (lambda: Yarn(ramp_start=-0.1), "ramp_start=-0.1"),
        (lambda: Attention(2, 1, 6, differential=0.5).build(12, "a"), "does not fit a half head of 3"),
        (
            lambda: Attention(2, 1, 8, rotary_dimensions=6, differential=0.5).build(12, "a"),
            "rotary_dimensions=6 does not fit a half head of 4",
        ),
    ],
)
def test_scalings_and_halves_that_cannot_work_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message):
        build()
