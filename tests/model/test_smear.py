"""Smearing against its equations, token by token; its starts; nothing from another document."""

import math

import pytest
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import Smear, SmearGate, SmearGateLayer, SmearMix, SmearMixLayer
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream

WIDTH, LENGTH = 6, 9
LAYERS = (Block(Attention(heads=1, key_value_heads=1, head_width=4), SquaredMlp(8)),)
STARTS = torch.tensor([[True, False, False, True, True, False, False, False, False]])


def smeared(layer: SmearMixLayer | SmearGateLayer, xs: list[Tensor], starts: list[bool]) -> list[Tensor]:
    """The equations, with the token before written out."""
    result = []
    for t, x in enumerate(xs):
        before = torch.zeros_like(x) if t == 0 or starts[t] else xs[t - 1]
        if isinstance(layer, SmearMixLayer):
            g = 1 / (1 + torch.exp(-layer.gate_D))
            result.append((1 - g) * x + g * before)
        else:
            logit = sum(layer.gate_W[i] * x[i] for i in range(len(layer.gate_W)))
            result.append(x + layer.factor_1 / (1 + math.exp(-float(logit))) * before)
    return result


@pytest.mark.parametrize("spec", [SmearMix(start=-1.0), SmearGate(channels=4)])
@pytest.mark.parametrize("begins", [True, False])
@torch.no_grad()
def test_each_token_takes_from_the_one_before_it_in_its_document(spec: Smear, begins: bool) -> None:
    torch.manual_seed(1)
    layer = spec.build(WIDTH).double()
    for parameter in layer.parameters():
        parameter.add_(torch.randn_like(parameter))
    x = torch.randn(1, LENGTH, WIDTH, dtype=torch.float64)
    starts = STARTS.clone()
    starts[0, 0] = begins
    expected = smeared(layer, list(x[0]), starts[0].tolist())
    torch.testing.assert_close(layer(x, Stream.of(starts))[0], torch.stack(expected), rtol=0, atol=1e-12)


@torch.no_grad()
def test_starts_are_the_published_ones() -> None:
    x = torch.randn(2, LENGTH, 16)
    stream = Stream.of(torch.zeros(2, LENGTH, dtype=torch.bool))
    assert torch.equal(SmearGate().build(16)(x, stream), x)
    before = torch.nn.functional.pad(x, (0, 0, 1, -1))
    torch.testing.assert_close(SmearMix().build(16)(x, stream), 0.5 * x + 0.5 * before)
    first_form = SmearMix(start=-3.0, place="before_norm").build(16)(x, stream)
    kept = 1 / (1 + math.exp(-3.0))
    assert kept == pytest.approx(0.953, abs=5e-4)
    torch.testing.assert_close(first_form, kept * x + (1 - kept) * before)


def test_a_gate_at_its_start_learns_by_its_factor_first() -> None:
    torch.manual_seed(0)
    layer = SmearGate(channels=4).build(WIDTH)
    stream = Stream.of(STARTS)
    x = torch.randn(1, LENGTH, WIDTH)
    layer(x, stream).square().sum().backward()
    assert layer.factor_1.grad is not None
    assert layer.gate_W.grad is not None
    assert layer.factor_1.grad.any()
    assert not layer.gate_W.grad.any()
    with torch.no_grad():
        layer.factor_1 -= 0.1 * layer.factor_1.grad
    layer.zero_grad()
    layer(x, stream).square().sum().backward()
    assert layer.gate_W.grad.all()


@pytest.mark.parametrize("place", ["before_norm", "after_norm"])
@torch.no_grad()
def test_the_place_decides_what_is_normalized(place: str) -> None:
    torch.manual_seed(2)
    spec = SmearMix(start=1.0, place=place)  # type: ignore[arg-type]
    model = Model(WIDTH, LAYERS, TiedEmbedding(0.3), smear=spec, vocabulary=11).build().double()
    model.compute_dtype = torch.float64
    ids, stream = torch.randint(0, 11, (1, LENGTH)), Stream.of(STARTS)
    entering = model.embedded(ids, stream)
    rows = model.embedding.weight[ids[0]]
    assert model.smear is not None

    def normalized(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()

    if place == "before_norm":
        expected = normalized(torch.stack(smeared(model.smear, list(rows), STARTS[0].tolist())))
    else:
        expected = torch.stack(smeared(model.smear, list(normalized(rows)), STARTS[0].tolist()))
    torch.testing.assert_close(entering[0], expected)


def test_no_value_and_no_gradient_crosses_into_a_document() -> None:
    for spec in (SmearMix(start=2.0), SmearGate(channels=4)):
        torch.manual_seed(3)
        layer = spec.build(WIDTH)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(1.5)
        x = torch.randn(1, LENGTH, WIDTH)
        # Even what is no number stays where it is.
        x[0, 2] = torch.nan
        y = layer(x, Stream.of(STARTS))
        assert y[0, 3:].isfinite().all()
        x = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
        layer(x, Stream.of(STARTS))[0, 3:].square().sum().backward()
        assert x.grad is not None
        assert not x.grad[0, :3].any()
        assert x.grad[0, 3].any()


def test_a_gate_wider_than_the_network_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"channels=12 of a smear gate is more than width=8"):
        Model(8, LAYERS, smear=SmearGate(), vocabulary=5).build()
    with pytest.raises(RecipeError, match="channels=0"):
        SmearGate(channels=0)
