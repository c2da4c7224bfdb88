"""Values tied to keys: one matrix for both, values being the keys as projected."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory, Stream

WIDTH = 16
STARTS = torch.tensor([[True, False, False, True, False, False]])
CHANGES: list[dict[str, Any]] = [{}, {"exclusive": True}, {"differential": 0.5}, {"window": 2}]
EVERY_CHANGE = pytest.mark.parametrize(
    "changes", CHANGES, ids=["plain", "exclusive", "differential", "window"]
)


def twins(changes: dict[str, Any]) -> tuple[AttentionLayer, AttentionLayer]:
    """A tied layer, and one of its own value matrix that holds the same numbers as that of the keys."""
    torch.manual_seed(1)
    spec = Attention(heads=4, key_value_heads=2, tied_values=True, **changes)
    tied = spec.build(WIDTH, "layer").double()
    untied = replace(spec, tied_values=False).build(WIDTH, "layer").double()
    with torch.no_grad():
        for parameter in tied.parameters():
            parameter.add_(torch.randn_like(parameter))
        untied.load_state_dict({**tied.state_dict(), "values.weight": tied.keys.weight})
    return tied, untied


@EVERY_CHANGE
def test_tied_values_are_the_keys_as_projected(changes: dict[str, Any]) -> None:
    tied, untied = twins(changes)
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    found, expected = tied(x, Stream.of(STARTS)), untied(x, Stream.of(STARTS))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for y in (found, expected):
        y.sin().sum().backward()
    gradients = [layer.weight.grad for layer in (tied.keys, untied.keys, untied.values)]
    whole, of_keys, of_values = (gradient for gradient in gradients if gradient is not None)
    assert of_values.any()
    torch.testing.assert_close(whole, of_keys + of_values, rtol=0, atol=1e-11)


@EVERY_CHANGE
@torch.no_grad()
def test_memory_holds_both_what_is_matched_and_what_is_read(changes: dict[str, Any]) -> None:
    tied, _ = twins(changes)
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    memory = Memory()
    steps = [tied(x[:, t : t + 1], Stream.of(STARTS[:, t : t + 1], memory)) for t in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), tied(x, Stream.of(STARTS)), rtol=0, atol=1e-11)
    values = memory.tensors["layer.values"]
    torch.testing.assert_close(values.flatten(2), tied.keys(x).view_as(values.flatten(2)))


def test_a_tied_layer_has_no_value_matrix() -> None:
    mixer = Attention(heads=4, key_value_heads=2)
    tied = replace(mixer, tied_values=True)
    model = Model(
        WIDTH, (Block(mixer, SquaredMlp(8)), Block(tied, SquaredMlp(8))), vocabulary=5, skips=False
    ).build()
    names = [name for name, role in parameter_roles(model).items() if role == Role.ATTENTION_VALUE]
    assert names == ["stack.blocks.0.mixer.values.weight"]
    first, second = (sum(p.numel() for p in layer.parameters()) for layer in model.stack.layers)
    assert first - second == WIDTH * WIDTH // 2
