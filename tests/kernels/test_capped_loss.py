"""Capped cross-entropy: the chunked body against the plain one and against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.kernels.capped_loss import (
    CapForm,
    capped_cross_entropy,
    capped_cross_entropy_and_normalizer,
    chunked,
    soft_cap,
)
from bytegolf.kernels.capped_loss.chunked import (
    chunked_capped_cross_entropy,
    chunked_capped_cross_entropy_and_normalizer,
)
from bytegolf.kernels.capped_loss.reference import capped_cross_entropy as reference
from bytegolf.kernels.capped_loss.reference import (
    capped_cross_entropy_and_normalizer as reference_and_normalizer,
)

FORMS = pytest.mark.parametrize("form", ["tanh", "polynomial"])


def problem(
    tokens: int, width: int, vocabulary: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    table = (2 * torch.randn(vocabulary, width, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return h, table, targets, torch.randn(tokens, generator=generator)


def bias_of(vocabulary: int) -> Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 100),
    width=st.sampled_from([1, 3, 8]),
    vocabulary=st.integers(1, 40),
    cap=st.none() | st.sampled_from([0.5, 5.0, 30.0]),
    form=st.sampled_from(["tanh", "polynomial"]),
    biased=st.booleans(),
    z_loss=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_chunked_equals_reference(
    tokens: int,
    width: int,
    vocabulary: int,
    cap: float | None,
    form: CapForm,
    biased: bool,
    z_loss: float,
    seed: int,
) -> None:
    h, table, targets, weights = problem(tokens, width, vocabulary, torch.float64, seed)
    bias = bias_of(vocabulary).requires_grad_() if biased else None
    leaves = [h, table] if bias is None else [h, table, bias]
    results = []
    # 32 rows, the least: 100 tokens make four chunks, the last of them short.
    for body in (reference_and_normalizer, chunked_capped_cross_entropy_and_normalizer):
        nats, normalizer = body(h, table, bias, targets, cap, form)
        loss = nats + z_loss * normalizer.square() if z_loss else nats
        results.append((nats.detach(), loss.detach(), *torch.autograd.grad(loss, leaves, weights.double())))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@FORMS
@pytest.mark.parametrize("biased", [False, True])
def test_losses_alone_are_the_losses_with_normalizers(form: CapForm, biased: bool) -> None:
    h, table, targets, _ = problem(40, 6, 21, torch.float64)
    bias = bias_of(21) if biased else None
    nats, normalizer = capped_cross_entropy_and_normalizer(h, table, bias, targets, 4.0, form)
    assert torch.equal(capped_cross_entropy(h, table, bias, targets, 4.0, form), nats)
    logits = h @ table.mT + (0.0 if bias is None else bias)
    torch.testing.assert_close(normalizer, soft_cap(logits, 4.0, form).exp().sum(1).log())


@pytest.mark.parametrize("cap", [None, 8.0])
def test_many_chunks_equal_one(cap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    h, table, targets, weights = problem(101, 6, 50, torch.float64)
    whole = chunked_capped_cross_entropy(h, table, None, targets, cap)
    monkeypatch.setattr(chunked, "_LOGITS_IN_FLIGHT", 1)
    parts = chunked_capped_cross_entropy(h, table, None, targets, cap)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-13)
    for a, b in zip(
        torch.autograd.grad(whole, (h, table), weights.double()),
        torch.autograd.grad(parts, (h, table), weights.double()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("body", [reference, chunked_capped_cross_entropy])
def test_lower_precisions_stay_near_float64(body: object, dtype: torch.dtype, tolerance: float) -> None:
    assert callable(body)
    h, table, targets, weights = problem(77, 16, 33, torch.bfloat16)
    exact_h, exact_table = (x.detach().double().requires_grad_() for x in (h, table))
    rough_h, rough_table = (x.detach().to(dtype).requires_grad_() for x in (h, table))
    exact = reference(exact_h, exact_table, None, targets, 10.0)
    rough = body(rough_h, rough_table, None, targets, 10.0)
    assert rough.dtype == torch.float32
    assert float((exact - rough).detach().norm() / exact.detach().norm()) < tolerance
    ours = torch.autograd.grad(rough, (rough_h, rough_table), weights)
    theirs = torch.autograd.grad(exact, (exact_h, exact_table), weights.double())
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert float((a - b).norm() / b.norm()) < tolerance


def test_a_float32_table_serves_16_bit_states_and_gets_float32_gradients() -> None:
    h, _, targets, _ = problem(20, 8, 9, torch.bfloat16)
    table = torch.randn(9, 8, requires_grad=True)
    losses = [body(h, table, None, targets, 5.0) for body in (reference, chunked_capped_cross_entropy)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.sum(), table)
        assert gradient.dtype == torch.float32


@pytest.mark.parametrize("body", [reference, chunked_capped_cross_entropy])
@FORMS
def test_logits_far_beyond_the_cap_neither_overflow_nor_pull(body: object, form: CapForm) -> None:
    assert callable(body)
    h = torch.full((2, 1), 1000.0, requires_grad=True)
    table = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    loss = body(h, table, None, torch.tensor([0, 1]), 3.0, form)
    expected = [math.log1p(math.exp(-6.0)), 6.0 + math.log1p(math.exp(-6.0))]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(loss.sum(), (h, table)):
        assert not gradient.any()


@pytest.mark.parametrize("body", [reference, chunked_capped_cross_entropy])
def test_without_a_cap_large_logits_stay_finite(body: object) -> None:
    assert callable(body)
    h = torch.full((1, 1), 1000.0)
    loss = body(h, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([1]), None)
    torch.testing.assert_close(loss, torch.tensor([2000.0]))


@FORMS
@pytest.mark.parametrize("cap", [None, 2.0, 60.0])
def test_the_gradient_is_the_slope_of_losses_and_normalizers(form: CapForm, cap: float | None) -> None:
    h, table, targets, _ = problem(5, 3, 4, torch.float64)
    bias = bias_of(4).requires_grad_()

    def both(h: Tensor, table: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return chunked_capped_cross_entropy_and_normalizer(h, table, bias, targets, cap, form)

    assert torch.autograd.gradcheck(both, (h, table, bias))
    assert torch.autograd.gradcheck(lambda *leaves: both(*leaves)[0], (h, table, bias))
    assert torch.autograd.gradcheck(lambda *leaves: both(*leaves)[1], (h, table, bias))


def test_the_polynomial_bends_monotonically_to_its_bound_and_is_not_the_series_of_tanh() -> None:
    u = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    capped = soft_cap(10.0 * u, 10.0, "polynomial") / 10.0
    # The bound is reached at 1.68995.
    inside = u.abs() < 1.6899
    torch.testing.assert_close(capped[inside], (u - u**3 / 3 + u**5 / 15)[inside])
    assert (capped.diff() >= 0).all()
    assert (capped[inside].diff() > 0).all()
    assert torch.equal(capped[u.abs() > 1.7], u[u.abs() > 1.7].sign())
    assert torch.equal(soft_cap(-10.0 * u, 10.0, "polynomial"), -10.0 * capped)
    # tanh's own fifth-order term is 2/15.
    assert float((capped - torch.tanh(u)).abs().max()) > 0.03


@FORMS
def test_a_bias_counts_in_its_own_precision(form: CapForm) -> None:
    h, table = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((2, 1), 8.0)
    bias = torch.tensor([0.0, 1e-3], requires_grad=True)
    # A bfloat16 from 8 on has steps of 1/16.
    for body in (reference, chunked_capped_cross_entropy):
        nats = [body(h, table, bias, torch.tensor([i]), None, form) for i in (0, 1)]
        torch.testing.assert_close(nats[0] - nats[1], torch.tensor([1e-3]), rtol=0, atol=1e-6)
        (gradient,) = torch.autograd.grad(nats[1].sum(), bias)
        torch.testing.assert_close(gradient, torch.tensor([0.5, -0.5]), rtol=0, atol=1e-3)


def test_soft_cap_is_bounded_and_the_identity_near_zero() -> None:
    z = torch.tensor([-1e6, -0.01, 0.0, 0.01, 1e6])
    torch.testing.assert_close(soft_cap(z, 5.0), torch.tensor([-5.0, -0.01, 0.0, 0.01, 5.0]))
    assert torch.equal(soft_cap(z, None), z)
    assert soft_cap(z.bfloat16(), 5.0).dtype == torch.float32
    assert soft_cap(z.double(), 5.0).dtype == torch.float64


def test_a_cpu_takes_the_chunked_body() -> None:
    h, table, targets, _ = problem(9, 4, 5, torch.float32)
    loss = capped_cross_entropy(h, table, None, targets, 4.0)
    assert torch.equal(loss, chunked_capped_cross_entropy(h, table, None, targets, 4.0))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    h, table, targets, _ = problem(5, 3, 4, torch.float64)
    loss = chunked_capped_cross_entropy(h, table, None, targets, 2.0).square().sum()
    (gradient,) = torch.autograd.grad(loss, h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
