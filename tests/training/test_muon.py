"""Muon against torch's own, against its definition, and its corner cases."""

import math

import pytest
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.orthogonal import POLAR_EXPRESS, classic, gram_orthogonalize, orthogonalize
from bytegolf.training import muon
from bytegolf.training.muon import Muon, MuonOptimizer
from bytegolf.training.ranks import Ranks
from bytegolf.training.schedule import Taper

SHAPES = [(6, 4), (4, 6), (6, 4), (5, 5), (6, 4), (4, 6)]


def parameters(dtype: torch.dtype = torch.float64, shapes: list[tuple[int, int]] | None = None):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in (shapes or SHAPES)
    ]


def gradients(step: int, dtype: torch.dtype = torch.float64, count: int = len(SHAPES)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES[:count]
    ]


def run(spec: Muon, steps: int, dtype: torch.dtype = torch.float64, count: int = len(SHAPES)) -> list[Tensor]:
    weights = parameters(shapes=SHAPES[:count])
    optimizer = MuonOptimizer(weights, spec, Ranks(), dtype)
    for step in range(steps):
        for weight, gradient in zip(weights, gradients(step, count=count), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def by_definition(spec: Muon, steps: int) -> list[Tensor]:
    """One matrix after another, straight from the docstring."""
    results = []
    for index, weight in enumerate(parameters()):
        w, b = weight.detach().clone(), torch.zeros_like(weight)
        v: Tensor | float = 0.0
        for step in range(steps):
            g = gradients(step)[index]
            if step >= spec.momentum_steps:
                mu = spec.momentum
            else:
                mu = spec.momentum_start + (spec.momentum - spec.momentum_start) * step / spec.momentum_steps
            b = mu * b + g
            u = g + mu * b
            if spec.equalize_rows:
                u = torch.stack([row / max(float(row.norm()), 1e-7) for row in u])
            coefficients = classic(spec.steps) if spec.coefficients == "classic" else POLAR_EXPRESS
            o = orthogonalize(u[None], coefficients, dtype=torch.float64)[0]
            if spec.second_moment is not None:
                side = 1 if o.shape[0] >= o.shape[1] else 0
                v = spec.second_moment * v + (1 - spec.second_moment) * (o**2).mean(dim=side, keepdim=True)
                o, norm = o / v.sqrt(), o.norm()
                o = o * norm / o.norm()
            rate = spec.learning_rate
            decays = (w * o >= 0).double() if spec.cautious else 1.0
            w = (1 - rate * spec.weight_decay * decays) * w
            w = w - rate * math.sqrt(max(1.0, w.shape[0] / w.shape[1])) * o
        results.append(w)
    return results


@pytest.mark.parametrize(
    "spec",
    [
        Muon(),
        Muon(0.1, momentum_start=0.95),
        Muon(0.1, momentum=0.9, momentum_start=0.5, momentum_steps=3),
        Muon(0.1, weight_decay=0.5),
        Muon(0.1, weight_decay=0.5, cautious=True),
        Muon(0.1, second_moment=0.9),
        Muon(0.1, coefficients="polar_express", equalize_rows=True),
        Muon(0.1, equalize_rows=True, steps=3),
    ],
    ids=[
        "defaults",
        "steady",
        "rising momentum",
        "decay",
        "cautious decay",
        "NorMuon",
        "polar, equal rows",
        "NeoMuon",
    ],
)
def test_batched_equals_its_definition_matrix_by_matrix(spec: Muon) -> None:
    for ours, expected in zip(run(spec, 5), by_definition(spec, 5), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("momentum", "tolerance"), [(0.5, 1e-12), (0.95, 0.05)])
def test_the_plain_setting_equals_torchs_muon(decay: float, momentum: float, tolerance: float) -> None:
    steady = Muon(0.02, weight_decay=decay, momentum=momentum, momentum_start=momentum)
    ours = run(steady, 4, dtype=torch.bfloat16)
    theirs = parameters()
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=decay, momentum=momentum, adjust_lr_fn="original"
    )
    for step in range(4):
        for weight, gradient in zip(theirs, gradients(step), strict=True):
            weight.grad = gradient
        reference.step()
    for a, b, start in zip(ours, theirs, parameters(), strict=True):
        # Torch's momentum is 1 - μ times ours. Both orthogonalize in bfloat16, where a scale that is no
        # power of two is another rounding.
        assert float((a - b).detach().norm()) <= tolerance * float((b - start).detach().norm())


def test_the_gram_form_serves_matrices_that_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[int, int]] = []

    def spy(u_MRC: Tensor, *rest: object, **settings: object) -> Tensor:
        served.append(tuple(u_MRC.shape[1:]))  # type: ignore[arg-type]
        return gram_orthogonalize(u_MRC, *rest, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(muon, "gram_orthogonalize", spy)
    plain = run(Muon(0.1, weight_decay=0.1), 3)
    for ratio, expected in ((1.6, []), (1.5, [(6, 4), (4, 6)]), (1.0, [(6, 4), (4, 6), (5, 5)])):
        served.clear()
        results = run(Muon(0.1, weight_decay=0.1, gram_above=ratio), 3)
        assert served == expected * 3
        for ours, theirs in zip(results, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_weight_decay_is_constant_and_then_falls_linearly() -> None:
    spec = Muon(weight_decay=0.2, decay_taper=Taper(start=0.7, end=0.5))
    expected = {0.0: 0.2, 0.7: 0.2, 0.85: 0.15, 1.0: 0.1, 1.4: 0.1}
    for progress, decay in expected.items():
        assert spec.decay_at(progress) == pytest.approx(decay)
        assert Muon(weight_decay=0.2).decay_at(progress) == 0.2


def test_treating_a_matrix_among_others_changes_nothing() -> None:
    together = run(Muon(0.1), 3)
    for count in (1, 2, 4):
        for ours, alone in zip(together, run(Muon(0.1), 3, count=count), strict=False):
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-12)


def test_a_zero_gradient_only_decays() -> None:
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    optimizer = MuonOptimizer(
        weights, Muon(0.1, weight_decay=0.2, equalize_rows=True), Ranks(), torch.float64
    )
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 0.1 * 0.2), rtol=1e-14, atol=0)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    weights = parameters()
    before = weights[0].detach().clone()
    optimizer = MuonOptimizer(weights, Muon(0.1, weight_decay=0.2), Ranks(), torch.float64)
    for weight, gradient in zip(weights[1:], gradients(0)[1:], strict=True):
        weight.grad = gradient
    optimizer.step()
    assert torch.equal(weights[0], before)


def test_an_update_has_the_length_of_an_orthogonal_matrix_whatever_the_gradients() -> None:
    for size in (1e-3, 1.0, 1e5):
        weight = torch.nn.Parameter(torch.zeros(16, 64, dtype=torch.float64))
        optimizer = MuonOptimizer([weight], Muon(1.0), Ranks(), torch.float64)
        weight.grad = size * torch.randn(16, 64, dtype=torch.float64)
        optimizer.step()
        values = torch.linalg.svdvals(weight.detach())
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.25


def test_rows_are_made_equal_before_orthogonalization() -> None:
    gradient = torch.randn(4, 6, dtype=torch.float64)
    louder = gradient * torch.tensor([[1.0], [100.0], [0.01], [1.0]], dtype=torch.float64)
    results = {}
    for equal in (False, True):
        for name, value in (("plain", gradient), ("louder", louder)):
            weight = torch.nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
            spec = Muon(1.0, equalize_rows=equal)
            optimizer = MuonOptimizer([weight], spec, Ranks(), torch.float64)
            weight.grad = value
            optimizer.step()
            results[equal, name] = weight.detach()
    torch.testing.assert_close(results[True, "plain"], results[True, "louder"], rtol=0, atol=1e-10)
    assert float((results[False, "plain"] - results[False, "louder"]).abs().max()) > 0.1


def test_rows_of_equal_root_mean_square_are_rows_of_equal_length() -> None:
    """NeoMuon's own words: the factor √C between the two is lost in the division by the whole norm."""
    u = torch.randn(3, 8, 5, dtype=torch.float64)
    by_length = u / u.norm(dim=-1, keepdim=True)
    by_mean_square = u / u.square().mean(dim=-1, keepdim=True).sqrt()
    ours, theirs = (
        orthogonalize(value, classic(3), dtype=torch.float64) for value in (by_length, by_mean_square)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_one_process_has_nothing_to_share() -> None:
    for plain, sharded in zip(run(Muon(0.1), 3), run(Muon(0.1, sharded=True), 3), strict=True):
        assert torch.equal(plain, sharded)


def test_momentum_rises_linearly_and_stays() -> None:
    spec = Muon(momentum=0.95, momentum_start=0.85, momentum_steps=500)
    assert spec.momentum_at(0) == 0.85
    assert spec.momentum_at(250) == pytest.approx(0.9)
    assert spec.momentum_at(500) == pytest.approx(0.95)
    assert spec.momentum_at(10**6) == pytest.approx(0.95)
    assert Muon(momentum=0.9, momentum_steps=0).momentum_at(0) == pytest.approx(0.9)


def test_restored_it_goes_on_to_the_same_bits() -> None:
    spec = Muon(0.1, momentum_steps=4)
    unbroken = run(spec, 4)
    weights = parameters()
    optimizer = MuonOptimizer(weights, spec, Ranks(), torch.float64)
    for step in range(4):
        if step == 2:
            state = optimizer.state_dict()
            optimizer = MuonOptimizer(weights, spec, Ranks(), torch.float64)
            optimizer.load_state_dict(state)
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, unbroken, strict=True))


def test_vectors_are_refused() -> None:
    with pytest.raises(AssertionError, match="Muon treats matrices"):
        MuonOptimizer([torch.nn.Parameter(torch.zeros(3))], Muon(), Ranks(), torch.float64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum_start": -0.1}, "momentum_start=-0.1"),
        ({"momentum_steps": -1}, "momentum_steps=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"steps": 0}, "steps=0"),
        ({"gram_above": 0.9}, "gram_above=0.9; give a ratio"),
        ({"second_moment": 1.0}, "second_moment=1.0; 0 ≤ x < 1"),
        ({"steps": 4, "coefficients": "polar_express"}, "steps=4 .*whose 5 triples only settle together"),
        ({"steps": 6, "coefficients": "polar_express"}, "steps=6 .*give 5 steps"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Muon(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_second_moments_even_out_neurons_and_keep_the_norm(shape: tuple[int, int]) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = MuonOptimizer([weight], Muon(0.1, second_moment=0.0), Ranks(), torch.float64)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = MuonOptimizer([other := weight.detach().clone()], Muon(0.1), Ranks(), torch.float64)
    other.grad = weight.grad.clone()
    optimizer.step()
    plain.step()
    # Without a memory every vector of the longer side comes out as long as every other.
    lengths = weight.detach().norm(dim=1 if shape[0] > shape[1] else 0)
    torch.testing.assert_close(lengths, lengths.mean().expand(6))
    torch.testing.assert_close(weight.detach().norm(), other.norm())
    assert not torch.allclose(weight.detach(), other)
