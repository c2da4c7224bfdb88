"""What an edge weighs: the formulas, their slopes, and that none of them overflows or leaks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.friction.gate import (
    Form,
    Rule,
    fidelity,
    fidelity_slope,
    plain_slopes,
    plain_weights,
)
from bytegolf.kernels.friction.polynomial import fidelity_polynomial

FORMS: list[Form] = ["mu", "eta_mu", "log_domain"]
EVERY_FORM = pytest.mark.parametrize("form", FORMS)
#: From the smallest numbers of float32 that are not subnormal to its largest.
DECADES = torch.logspace(-37.9, 38.5, 4001, dtype=torch.float64)


def exact_fidelity(eta: Tensor, n: float) -> Tensor:
    """η (1 + ηⁿ)^(−1/n) through logarithms, in float64, where nothing is near an end of the range."""
    logs = torch.log(eta.double())
    return torch.exp(logs - torch.nn.functional.softplus(n * logs, threshold=700) / n)


@pytest.mark.parametrize("exponent", [1.0, 1.25, 2.0, 4.0])
def test_fidelity_and_its_slope_hold_over_all_of_float32(exponent: float) -> None:
    eta = DECADES.float()
    expected = exact_fidelity(eta, exponent)
    torch.testing.assert_close(fidelity(eta, exponent).double(), expected, rtol=4e-7, atol=0.0)
    slope = (expected / eta.double()) ** (exponent + 1.0)
    # Where the slope itself is below what float32 holds, it may be 0.
    torch.testing.assert_close(fidelity_slope(eta, exponent).double(), slope, rtol=2e-6, atol=1e-38)


@given(eta=st.floats(1e-6, 1e6), n=st.floats(0.5, 4.0))
def test_fidelity_turned_over_is_what_noise_keeps(eta: float, n: float) -> None:
    """μⁿ + νⁿ = 1, where ν is the fidelity of 1/η: the two share the capacity W, Wⁿ = Ωⁿ + Nⁿ."""
    mu, nu = (float(fidelity(torch.tensor(value, dtype=torch.float64), n)) for value in (eta, 1 / eta))
    assert mu**n + nu**n == pytest.approx(1.0)


def test_with_exponent_one_the_log_domain_is_a_sigmoid() -> None:
    x = torch.linspace(1e-3, 9, 100, dtype=torch.float64)
    torch.testing.assert_close(plain_weights(x, "log_domain", 1.0), torch.sigmoid(x))


def test_the_log_domain_is_the_fidelity_of_the_exponential() -> None:
    x = torch.linspace(1e-3, 9, 100, dtype=torch.float64)
    torch.testing.assert_close(plain_weights(x, "log_domain", 1.25), fidelity(x.exp(), 1.25))


@EVERY_FORM
def test_what_is_below_its_friction_weighs_nothing_and_passes_no_gradient(form: Form) -> None:
    x = torch.tensor([-torch.inf, -1e38, -1.0, -1e-38, -0.0, 0.0], requires_grad=True)
    weights = Rule(form).weights(x)
    assert torch.equal(weights, torch.zeros(6))
    # Bit for bit zero: −0 added to a sum that began at +0 is still +0, but a product's sign would show.
    assert not torch.signbit(weights).any()
    weights.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(6))


@EVERY_FORM
def test_weights_and_slopes_are_finite_wherever_scores_are(form: Form) -> None:
    x = torch.cat([-DECADES, DECADES, torch.zeros(1)]).float()
    weights, slopes = plain_weights(x, form, 1.25), plain_slopes(x, form, 1.25)
    assert slopes.isfinite().all()
    assert (slopes >= 0).all()
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@EVERY_FORM
@pytest.mark.parametrize("exponent", [1.25, 2.0])
def test_gradients_are_the_slopes(form: Form, exponent: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    x = x[x.abs() > 1e-3].requires_grad_()
    assert torch.autograd.gradcheck(Rule(form, exponent).weights, (x,))


def test_the_weights_at_one_are_these() -> None:
    one = torch.ones((), dtype=torch.float64)
    assert float(plain_weights(one, "mu", 1.25)) == pytest.approx(2**-0.8)
    assert float(plain_weights(one, "eta_mu", 1.25)) == pytest.approx(2**-0.8)
    assert float(plain_weights(one, "log_domain", 1.25)) == pytest.approx((1 + math.exp(-1.25)) ** -0.8)
    # An edge of log_domain begins here, where those of the others begin at 0.
    tiny = torch.tensor(1e-12, dtype=torch.float64)
    assert float(plain_weights(tiny, "log_domain", 1.25)) == pytest.approx(2**-0.8)


def test_a_naive_fidelity_would_fail_where_this_one_does_not() -> None:
    eta = np.float16(8000.0)
    with np.errstate(over="ignore"):
        assert not np.isfinite(eta**1.25)
    assert float(fidelity(torch.tensor(8000.0, dtype=torch.float16), 1.25)) == 1.0


@pytest.mark.parametrize("wrong", [{"exponent": 0.0}, {"capacity": 0.0}, {"capacity": -1.0}])
def test_wrong_rules_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Rule("mu", **wrong)


def test_the_polynomial_of_the_fidelity_is_near_it() -> None:
    eta = torch.logspace(-20, 20, 4001, dtype=torch.float64)
    z = eta / (1 + eta)
    m = z / (1 + eta)
    for exponent in (1.0, 1.25, 1.5, 2.0):
        found = fidelity_polynomial(exponent)
        assert found is not None
        value = sum(c * m**power for power, c in enumerate(found))
        turn = sum(power * c * m ** (power - 1) for power, c in enumerate(found) if power)
        slope = (z / eta) ** 2 * (value + z * (1 - 2 * z) * turn)
        bound = 4e-4 if exponent == 1.25 else 1e-3
        assert float((z * value / fidelity(eta, exponent) - 1).abs().max()) < bound
        assert float((slope - fidelity_slope(eta, exponent)).abs().max()) < 2e-3
    assert fidelity_polynomial(4.0) is None
    assert fidelity_polynomial(0.5) is None
