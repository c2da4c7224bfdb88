"""Projection and activation: the plain form against formulas, the fused one, where it can run, against it."""

import dataclasses
from typing import Any

import pytest
import torch
from fused_device import DEVICE, PLAIN, TYPES, chosen, error, needs_fused, new_tensors_without_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.kernels import activated_projection
from bytegolf.kernels.activated_projection import (
    leaky_square,
    quadratic,
    quadratic_projection,
    reference,
    squared_projection,
)

#: Above zero and below it: unlike each other, and of both signs.
COEFFICIENTS = (1.1, 0.3, 0.7, -0.4)
#: Tokens, width, channels: one tile and a little, none full, widths that the tile's depth does not divide.
SHAPES = [(131, 48, 150), (128, 64, 128), (1, 8, 5), (70, 130, 33)]


@settings(max_examples=60, deadline=None)
@given(h=st.floats(-50, 50), slope=st.floats(0, 1))
def test_the_activations_are_their_formulas(h: float, slope: float) -> None:
    value = torch.tensor(h, dtype=torch.float64)
    squared = h * h if h > 0 else (slope * h) ** 2
    assert float(leaky_square(value, slope)) == pytest.approx(squared, abs=1e-12)
    a, b = COEFFICIENTS[:2] if h > 0 else COEFFICIENTS[2:]
    coefficients = torch.tensor(COEFFICIENTS, dtype=torch.float64)
    assert float(quadratic(value, coefficients)) == pytest.approx(h * (a * h + b), abs=1e-12)


def test_the_squared_activation_is_a_case_of_the_quadratic_one() -> None:
    h = torch.linspace(-3, 3, 101, dtype=torch.float64)
    coefficients = torch.tensor([1.0, 0.0, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(leaky_square(h, 0.5), quadratic(h, coefficients))


def test_gradients_of_the_plain_forms_are_their_slopes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((2, 3, 4), (5, 4))
    )
    coefficients = torch.tensor(COEFFICIENTS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: squared_projection(x, w, 0.5), (x, weight))
    assert torch.autograd.gradcheck(quadratic_projection, (x, weight, coefficients))


def test_a_cpu_takes_the_plain_form() -> None:
    x, weight = torch.randn(2, 3, 4).bfloat16(), torch.randn(5, 4)
    coefficients = torch.tensor(COEFFICIENTS)
    for ours, theirs in (
        (squared_projection(x, weight, 0.5), reference.squared_projection(x, weight, 0.5)),
        (
            quadratic_projection(x, weight, coefficients),
            reference.quadratic_projection(x, weight, coefficients),
        ),
    ):
        assert ours.dtype == torch.bfloat16
        assert ours.shape == (2, 3, 5)
        assert torch.equal(ours, theirs)


class TestFused:
    pytestmark = needs_fused

    @pytest.fixture
    def fused(self) -> Any:
        from bytegolf.kernels.activated_projection import triton

        return triton

    @staticmethod
    def problem(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
        tokens, width, channels = shape
        generator = torch.Generator().manual_seed(0)
        sizes = [(tokens, width), (channels, width), (tokens, channels)]
        x, weight, toward = (torch.randn(*s, generator=generator).to(DEVICE, dtype) for s in sizes)
        return [x.requires_grad_(), (weight / width**0.5).detach().requires_grad_()], toward

    @staticmethod
    def coefficients() -> Tensor:
        return torch.tensor(COEFFICIENTS, device=DEVICE, requires_grad=True)

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize(("shape", "slope"), chosen(SHAPES, [0.5, 0.0, None]))
    def test_fused_equals_reference(
        self, fused: Any, shape: tuple[int, int, int], slope: float | None, dtype: torch.dtype
    ) -> None:
        name = "quadratic_projection" if slope is None else "squared_projection"
        leaves, toward = self.problem(shape, dtype)
        setting = self.coefficients() if slope is None else slope
        leaves += [setting] if isinstance(setting, Tensor) else []
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        ours = getattr(fused, f"fused_{name}")(*leaves[:2], setting)
        theirs = getattr(reference, name)(*exact[:2], exact[2] if slope is None else slope)
        assert ours.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        assert error(ours, theirs) < tolerance
        gradients = torch.autograd.grad(ours, leaves, toward)
        expected = torch.autograd.grad(theirs, exact, toward.double())
        for leaf, a, b in zip(leaves, gradients, expected, strict=True):
            assert a.dtype == leaf.dtype
            assert error(a, b) < tolerance

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_entry_is_written(self, fused: Any, shape: tuple[int, int, int]) -> None:
        (x, weight), _ = self.problem(shape, PLAIN)
        with torch.no_grad(), new_tensors_without_numbers():
            written = fused.project_and_activate(x, weight, None, 0.25)
            slopes = fused._slope(written[0], written[1], None, 0.25)[0]
        assert all(tensor.isfinite().all() for tensor in (*written, slopes))

    def test_rows_of_any_number_of_dimensions_are_projected(self, fused: Any) -> None:
        (x, weight), _ = self.problem((24, 48, 40), PLAIN)
        flat = fused.fused_squared_projection(x, weight, 0.5)
        folded = fused.fused_squared_projection(x.unflatten(0, (2, 3, 4)), weight, 0.5)
        assert torch.equal(folded.flatten(0, 2), flat)

    def test_the_operators_are_what_compiled_code_takes_them_for(self, fused: Any) -> None:
        (x, weight), toward = self.problem((20, 48, 40), PLAIN)
        coefficients = self.coefficients()
        torch.library.opcheck(fused._project, (x, weight, coefficients, 0.0))
        torch.library.opcheck(fused._project, (x, weight, None, 0.25))
        torch.library.opcheck(fused._project, (x, weight, None, 0.0))
        hidden = (x @ weight.mT).detach()
        torch.library.opcheck(fused._slope, (toward, hidden, coefficients.detach(), 0.0))

    @pytest.mark.parametrize(("slope", "kept"), [(0.5, 2), (0.0, 1), (None, 2)])
    def test_beside_its_result_only_the_hidden_channels_are_kept_and_with_slope_zero_not_even_these(
        self, fused: Any, slope: float | None, kept: int
    ) -> None:
        (x, weight), _ = self.problem((131, 48, 150), PLAIN)
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            if slope is None:
                result = fused.fused_quadratic_projection(x, weight, self.coefficients())
            else:
                result = fused.fused_squared_projection(x, weight, slope)
        # The next product keeps the result.
        saved[result.data_ptr()] = result.numel()
        assert sum(entries == result.numel() for entries in saved.values()) == kept

    @pytest.mark.parametrize("width", [48, 50])
    def test_descriptors_of_tiles_change_nothing(self, fused: Any, width: int) -> None:
        # Rows of 50 numbers are not aligned: there the tiles come by their addresses after all.
        (x, weight), _ = self.problem((131, width, 150), TYPES[-1])
        found = [
            fused.project_and_activate(
                x.detach(),
                weight,
                None,
                0.25,
                tiles=dataclasses.replace(fused.TILES, descriptors=described),
            )
            for described in (False, True)
        ]
        for a, b in zip(*found, strict=True):
            assert a.any()
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)

    @pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU")
    def test_a_gpu_takes_the_fused_body_in_16_bits(self, fused: Any) -> None:
        (x, weight), _ = self.problem((70, 64, 130), torch.bfloat16)
        coefficients = self.coefficients()
        ours = activated_projection.quadratic_projection(x, weight.float(), coefficients)
        assert torch.equal(ours, fused.fused_quadratic_projection(x, weight, coefficients))
        assert ours.grad_fn is not None
