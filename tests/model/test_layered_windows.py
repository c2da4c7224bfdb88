"""Layers that differ in what they see: windows, rotated dimensions, gains, gates and activations together."""

from dataclasses import replace

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.decoding import Reader
from bytegolf.model.gates import FullGate, OutGate, SparseGate
from bytegolf.model.mlp import SquaredMlp, XieluMlp, published_xielu
from bytegolf.model.smear import SmearGate
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block

LOCAL = Attention(heads=4, key_value_heads=2, exclusive=True, gate=OutGate(reads="residual"))
GLOBAL = replace(LOCAL, rotary_dimensions=4)
#: Query gains of entry #1728, its first five layers.
GAINS = (2.35, 2.88, 2.76, 2.81, 2.79)


def layered() -> Model:
    """Small, but with the split of entry #1728: two windows, and global layers that turn few dimensions."""
    layers = tuple(
        Block(
            replace(GLOBAL if i == 4 else replace(LOCAL, window=2 if i < 2 else 3), query_gain=gain),
            published_xielu(i, hidden=64),
        )
        for i, gain in enumerate(GAINS)
    )
    return Model(64, layers, smear=SmearGate(place="after_norm"), skips="gated", vocabulary=31)


def mixed() -> Model:
    """A layer for every gate, tied values and learned coefficients."""
    mixer = Attention(heads=4, key_value_heads=2)
    layers = (
        Block(replace(mixer, gate=SparseGate(scale=0.5), window=7), XieluMlp(hidden=64, learned=True)),
        Block(replace(mixer, gate=FullGate(), tied_values=True, exclusive=True), published_xielu(0, 64)),
        Block(replace(mixer, gate=OutGate(reads="query"), tied_values=True), SquaredMlp(64, slope=0.5)),
    )
    return Model(64, layers, vocabulary=31)


def moved(spec: Model) -> LanguageModel:
    """The network away from its start."""
    torch.manual_seed(1)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_every_layer_has_its_own_gain_to_start_from() -> None:
    model = layered().build()
    assert [layer.mixer.gain_H.unique().item() for layer in model.stack.layers] == pytest.approx(GAINS)


@torch.no_grad()
def test_windows_of_layers_add_up() -> None:
    spec = layered()
    model = moved(replace(spec, layers=spec.layers[:4], smear=None)).double()
    model.compute_dtype = torch.float64
    ids, starts = torch.randint(0, 31, (1, 24)), torch.zeros(1, 24, dtype=torch.bool)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 31
    differs = (model.log_probabilities(ids, starts) != model.log_probabilities(changed, starts)).any(-1)[0]
    # Two layers see themselves and 2 tokens before, two layers 3.
    assert differs.nonzero().flatten().tolist() == list(range(5, 5 + 2 * 2 + 2 * 3 + 1))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    ids, starts = torch.randint(31, (5, 41)), torch.rand(5, 40) < 0.1
    starts[:, 0] = True
    return ids, starts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("spec", [layered(), mixed()], ids=["layered", "mixed"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_recorded_steps_of_unlike_layers_are_the_forward_pass(spec: Model, precision: torch.dtype) -> None:
    model, exact = moved(spec).cuda(), moved(spec).cuda().double()
    model.compute_dtype, exact.compute_dtype = precision, torch.float64
    ids, starts = batch()
    reader = Reader(model, 5, 40)
    read = [reader.begin(ids[:, :17], starts[:, :17])]
    read += [reader.step(ids[:, t], starts[:, t]).clone() for t in range(17, 40)]
    error = torch.stack(read, dim=1).double() - exact.log_probabilities(ids[:, :-1].cuda(), starts)[:, 16:]
    assert float(error.abs().max()) < (0.15 if precision == torch.bfloat16 else 2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("spec", [layered(), mixed()], ids=["layered", "mixed"])
def test_compiled_training_of_unlike_layers_has_the_gradients_of_float64(spec: Model) -> None:
    model, exact = moved(spec).cuda(), moved(spec).cuda().double()
    model.compute_dtype, exact.compute_dtype = torch.bfloat16, torch.float64
    model.compile_parts()
    ids, starts = batch()
    for network in (model, exact):
        network.losses(ids[:, :-1].cuda(), ids[:, 1:].cuda(), starts).mean().backward()
    for (name, found), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert found.grad is not None, name
        assert expected.grad is not None, name
        error = (found.grad.double() - expected.grad).norm() / expected.grad.norm()
        assert float(error) < 0.25, name
