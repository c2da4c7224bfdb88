"""Newton-Schulz: singular values, orientation, batches, precision."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.kernels.orthogonal import (
    CLASSIC,
    POLAR_EXPRESS,
    Coefficients,
    classic,
    gram_orthogonalize,
    orthogonalize,
)
from bytegolf.kernels.orthogonal import gram as gram_module

BOTH = pytest.mark.parametrize("coefficients", [CLASSIC, POLAR_EXPRESS], ids=["classic", "polar express"])
FORMS = pytest.mark.parametrize("form", [orthogonalize, gram_orthogonalize])


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def through_singular_values(g: torch.Tensor, coefficients: Coefficients) -> torch.Tensor:
    """The same iteration on singular values: s ← a s + b s³ + c s⁵ between unchanged U and V."""
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    s = s / (s.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return (u * s[..., None, :]) @ vh


@settings(max_examples=40, deadline=None)
@given(
    matrices=st.integers(1, 3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    coefficients=st.sampled_from([CLASSIC, POLAR_EXPRESS]),
    seed=st.integers(0, 999),
)
def test_each_singular_value_follows_the_polynomial(
    matrices: int, rows: int, columns: int, coefficients: Coefficients, seed: int
) -> None:
    g = gaussian(matrices, rows, columns, seed=seed)
    x = orthogonalize(g, coefficients, dtype=torch.float64)
    torch.testing.assert_close(x, through_singular_values(g, coefficients), rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    matrices=st.integers(1, 3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    coefficients=st.sampled_from([POLAR_EXPRESS, *map(classic, range(1, 8))]),
    seed=st.integers(0, 999),
)
def test_by_way_of_gram_matrices_comes_the_same(
    matrices: int, rows: int, columns: int, coefficients: Coefficients, seed: int
) -> None:
    g = gaussian(matrices, rows, columns, seed=seed)
    plain, gram = (form(g, coefficients, dtype=torch.float64) for form in (orthogonalize, gram_orthogonalize))
    torch.testing.assert_close(gram, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("coefficients", "low", "high"),
    [(CLASSIC, 0.7, 1.2), (POLAR_EXPRESS, 0.85, 1.15)],
    ids=["classic", "polar"],
)
@pytest.mark.parametrize(
    ("form", "dtype", "shape"),
    [
        (orthogonalize, torch.float32, (512, 2048)),
        (orthogonalize, torch.float32, (2048, 512)),
        # Of the same proportions, smaller: products in bfloat16 take seconds on a CPU without them.
        (orthogonalize, torch.bfloat16, (320, 1280)),
        (gram_orthogonalize, torch.bfloat16, (1280, 320)),
    ],
)
def test_a_wide_gaussian_ends_near_one(
    coefficients: Coefficients,
    low: float,
    high: float,
    shape: tuple[int, int],
    form: Callable[..., torch.Tensor],
    dtype: torch.dtype,
) -> None:
    x = form(gaussian(1, *shape).float(), coefficients, dtype=dtype)[0]
    values = torch.linalg.eigvalsh(x @ x.mT if shape[0] < shape[1] else x.mT @ x).sqrt()
    assert low < float(values.min())
    assert float(values.max()) < high


def test_four_of_the_five_polar_triples_are_not_settled() -> None:
    x = orthogonalize(gaussian(1, 128, 512), POLAR_EXPRESS[:4], dtype=torch.float64)[0]
    values = torch.linalg.svdvals(x)
    assert float(values.min()) < 0.6
    assert float(values.max()) > 1.4


def test_three_classic_steps_already_end_near_one() -> None:
    x = orthogonalize(gaussian(1, 128, 512), classic(3), dtype=torch.float64)[0]
    values = torch.linalg.svdvals(x)
    assert float(values.min()) > 0.65
    assert float(values.max()) < 1.25
    assert classic(5) == CLASSIC


@BOTH
@FORMS
def test_matrices_of_a_batch_do_not_see_each_other(
    form: Callable[..., torch.Tensor], coefficients: Coefficients
) -> None:
    g = gaussian(5, 12, 7) * torch.tensor([1e-4, 1.0, 1e4, 1.0, 0.0], dtype=torch.float64)[:, None, None]
    together = form(g, coefficients, dtype=torch.float64)
    for index in range(5):
        alone = form(g[index : index + 1], coefficients, dtype=torch.float64)
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-12)


@BOTH
@FORMS
def test_a_tall_matrix_is_the_transpose_of_a_wide_one(
    form: Callable[..., torch.Tensor], coefficients: Coefficients
) -> None:
    g = gaussian(2, 5, 11)
    wide = form(g, coefficients, dtype=torch.float64)
    tall = form(g.mT.contiguous(), coefficients, dtype=torch.float64)
    torch.testing.assert_close(tall, wide.mT, rtol=0, atol=1e-12)


@BOTH
@FORMS
def test_the_size_of_a_matrix_plays_no_part(
    form: Callable[..., torch.Tensor], coefficients: Coefficients
) -> None:
    g = gaussian(1, 6, 9)
    small, large = (form(g * size, coefficients, dtype=torch.float64) for size in (1e-2, 1e6))
    # Only the 1e-7 beside the norm tells them apart.
    torch.testing.assert_close(small, large, rtol=0, atol=1e-4)


@BOTH
@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_stays_zero_and_the_type_stays(
    form: Callable[..., torch.Tensor], coefficients: Coefficients, dtype: torch.dtype
) -> None:
    zero = torch.zeros(2, 3, 4)
    x = form(zero, coefficients, dtype=dtype)
    assert x.dtype == torch.float32
    assert not x.any()


@BOTH
# The factors of two iterations multiplied, 33 at the most, round coarser than one iteration at a time.
@pytest.mark.parametrize(("form", "tolerance"), [(orthogonalize, 0.05), (gram_orthogonalize, 0.08)])
def test_bfloat16_stays_near_float64(
    form: Callable[..., torch.Tensor], tolerance: float, coefficients: Coefficients
) -> None:
    g = gaussian(2, 64, 160)
    exact = form(g, coefficients, dtype=torch.float64)
    rough = form(g, coefficients, dtype=torch.bfloat16)
    assert rough.dtype == torch.float64
    assert float((exact - rough).norm() / exact.norm()) < tolerance


@BOTH
@FORMS
def test_the_input_is_left_alone(form: Callable[..., torch.Tensor], coefficients: Coefficients) -> None:
    g = gaussian(2, 4, 4)
    before = g.clone()
    orthogonalize(g, coefficients, dtype=torch.float64)
    assert torch.equal(g, before)


@BOTH
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_on_falling_spectra_the_gram_form_errs_as_little_as_the_plain_one(
    coefficients: Coefficients, power: float
) -> None:
    u, s, vh = torch.linalg.svd(gaussian(1, 128, 512), full_matrices=False)
    g = (u * torch.arange(1, s.shape[-1] + 1) ** -power) @ vh
    exact = orthogonalize(g, coefficients, dtype=torch.float64)
    plain, gram = (
        float((form(g, coefficients, dtype=torch.bfloat16) - exact).norm() / exact.norm())
        for form in (orthogonalize, gram_orthogonalize)
    )
    assert gram < 1.2 * plain + 0.04


def test_without_computing_gram_matrices_afresh_bfloat16_ends_in_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    u, s, vh = torch.linalg.svd(gaussian(1, 128, 512), full_matrices=False)
    g = (u / torch.arange(1, s.shape[-1] + 1)) @ vh
    kept = gram_orthogonalize(g, POLAR_EXPRESS, dtype=torch.bfloat16)
    monkeypatch.setattr(gram_module, "_ITERATIONS_PER_GRAM", 5)
    lost = gram_orthogonalize(g, POLAR_EXPRESS, dtype=torch.bfloat16)
    assert float(torch.linalg.matrix_norm(kept, 2)) < 1.3
    assert float(torch.linalg.matrix_norm(lost, 2)) > 10.0
