"""xIELU: its formula and derivative, the published coefficients, fixed and learned ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.kernels.activated_projection import quadratic
from bytegolf.model.mlp import PUBLISHED_XIELU, XieluMlp, published_xielu
from bytegolf.model.roles import Role

numbers = st.floats(-3, 3, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(h=numbers | st.just(0.0), coefficients=st.tuples(numbers, numbers, numbers, numbers))
def test_the_activation_and_its_derivative_are_the_stated_ones(
    h: float, coefficients: tuple[float, float, float, float]
) -> None:
    a, b = coefficients[:2] if h > 0 else coefficients[2:]
    argument = torch.tensor(h, dtype=torch.float64, requires_grad=True)
    y = quadratic(argument, torch.tensor(coefficients, dtype=torch.float64))
    y.backward()
    assert y.item() == pytest.approx(h * (a * h + b), rel=1e-12, abs=1e-12)
    assert argument.grad is not None
    assert argument.grad.item() == pytest.approx(2 * a * h + b, rel=1e-12, abs=1e-12)


def test_gradients_of_the_coefficients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    h = torch.randn(40, dtype=torch.float64, requires_grad=True)
    coefficients = torch.tensor(PUBLISHED_XIELU[7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quadratic, (h, coefficients))


@torch.no_grad()
def test_a_layer_is_its_formula() -> None:
    torch.manual_seed(1)
    for spec in (published_xielu(3, 7), XieluMlp(7, norm_output=True), XieluMlp(7, 1.0, -0.5, 0.25, 2.0)):
        layer = spec.build(5).double()
        layer.down.weight.normal_()
        x = torch.randn(2, 3, 5, dtype=torch.float64)
        h = x @ layer.up.weight.mT
        square_above, slope_above, square_below, slope_below = spec.coefficients
        h = torch.where(h > 0, square_above * h**2 + slope_above * h, square_below * h**2 + slope_below * h)
        if spec.norm_output:
            h = h / (h.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()
        torch.testing.assert_close(layer(x), h @ layer.down.weight.mT, rtol=0, atol=1e-6)


def test_published_coefficients_are_eleven_rows_and_the_last_serves_all_above() -> None:
    # As published: square and slope above zero, then below, of the layers at the ends and in the middle.
    assert published_xielu(0, 8) == XieluMlp(8, 0.103, 0.126, 0.39, 0.785)
    assert published_xielu(5, 8) == XieluMlp(8, 1.546, 0.002, 0.548, 0.289)
    assert published_xielu(10, 8) == published_xielu(14, 8) == XieluMlp(8, 0.917, 0.568, 0.845, 0.52)
    assert len(PUBLISHED_XIELU) == 11
    sums = [sum(column) for column in zip(*PUBLISHED_XIELU, strict=True)]
    assert sums == pytest.approx([12.405, 0.913, 7.306, 4.918])
    # About the means are the defaults.
    assert XieluMlp(8).coefficients == pytest.approx([value / 11 for value in sums], abs=0.06)


def test_fixed_coefficients_are_no_parameters_and_learned_ones_are_scalars() -> None:
    fixed, learned = published_xielu(2, 8).build(4), published_xielu(2, 8, learned=True).build(4)
    assert "coefficients_4" not in dict(fixed.named_parameters())
    # They follow from the spec, so no file holds them.
    assert "coefficients_4" not in fixed.state_dict()
    assert learned.roles["coefficients_4"] == Role.SCALAR
    assert torch.equal(learned.coefficients_4, fixed.coefficients_4)
    torch.nn.init.normal_(learned.down.weight)
    learned(torch.randn(6, 4)).square().sum().backward()
    assert learned.coefficients_4.grad is not None
    assert learned.coefficients_4.grad.all()


@torch.no_grad()
def test_half_precision_rounds_the_result_and_not_the_coefficients() -> None:
    h = torch.linspace(-4, 4, 801, dtype=torch.bfloat16)
    # In bfloat16 it would be 1.0.
    coefficients = torch.tensor([1.003, 0.0, 1.003, 0.0])
    found = quadratic(h, coefficients)
    assert found.dtype == torch.bfloat16
    coarser = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert not torch.equal(found, quadratic(h, coarser))
    exact = quadratic(h.double(), coefficients.double())
    error = (found.double() - exact).abs() / exact.abs().clamp_min(1e-9)
    # Two products are rounded, each by at most 2⁻⁸.
    assert float(error.max()) < 2.01 * 2.0**-8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"hidden": 4, "square_above": math.inf}, "square_above=inf"),
        ({"hidden": 4, "slope_below": math.nan}, "slope_below=nan"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        XieluMlp(**changes)  # type: ignore[arg-type]
