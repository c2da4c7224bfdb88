"""RMS normalization: the CPU body against the plain one, outputs and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.kernels.rms_norm.reference import EPSILON
from bytegolf.kernels.rms_norm.reference import rms_norm as reference
from bytegolf.kernels.rms_norm.saved import rms_norm as saved


def random(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_bodies_agree_on_any_shape_and_scale(shape: list[int], scale: float, seed: int) -> None:
    x = random(tuple(shape), torch.float64, scale, seed)
    y, expected = saved(x), reference(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)
    toward = torch.randn_like(y)
    (ours,), (theirs,) = (torch.autograd.grad(z, x, toward) for z in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10 / scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("body", [reference, saved])
def test_lower_precisions_stay_near_float64(body: object, dtype: torch.dtype, tolerance: float) -> None:
    assert callable(body)
    rough = random((5, 7, 33), dtype)
    exact = rough.detach().double().requires_grad_()
    y, expected = body(rough), reference(exact)
    assert y.dtype == dtype
    assert float((y - expected).detach().norm() / expected.detach().norm()) < tolerance
    toward = random((5, 7, 33), dtype, seed=1).detach()
    (ours,) = torch.autograd.grad(y, rough, toward)
    (theirs,) = torch.autograd.grad(expected, exact, toward.double())
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("body", [reference, saved])
def test_the_mean_square_becomes_one(body: object) -> None:
    assert callable(body)
    y = body(random((4, 50), torch.float64, 3.0))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("body", [reference, saved])
def test_a_freshly_started_embedding_is_not_swallowed(body: object, dtype: torch.dtype) -> None:
    assert callable(body)
    y = body(torch.full((2, 16), 0.005, dtype=dtype))
    torch.testing.assert_close(y.float(), torch.full((2, 16), 0.9976), rtol=0.01, atol=0)


@pytest.mark.parametrize("body", [reference, saved])
def test_zeros_stay_zeros_with_a_finite_gradient(body: object) -> None:
    assert callable(body)
    x = torch.zeros(2, 8, dtype=torch.float64, requires_grad=True)
    y = body(x)
    assert not y.any()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, EPSILON**-0.5))


def test_the_gradient_is_the_slope() -> None:
    assert torch.autograd.gradcheck(saved, random((3, 5), torch.float64))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = random((3, 5), torch.float64)
    (gradient,) = torch.autograd.grad(saved(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_cpu_takes_the_saved_body() -> None:
    x = random((3, 5), torch.bfloat16)
    assert torch.equal(rms_norm(x), saved(x))
