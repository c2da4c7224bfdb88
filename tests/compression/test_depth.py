"""Every layer belongs to one part of the depth, in the order in which tokens meet them."""

import pytest
import torch

from bytegolf.compression.depth import depths
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=16))


@pytest.mark.parametrize(
    ("layers", "loop", "expected"),
    [
        (1, None, "early"),
        (3, None, "early middle late"),
        (5, None, "early early middle middle late"),
        (5, Loop(1, 2), "early loop loop middle late"),
        (4, Loop(0, 1), "loop loop middle late"),
        (3, Loop(1, 2), "early loop loop"),
        (7, Loop(1, 1), "early loop middle middle late late late"),
    ],
)
def test_layers_are_parted_by_depth(layers: int, loop: Loop | None, expected: str) -> None:
    with torch.device("meta"):
        model = Model(width=16, layers=(LAYER,) * layers, vocabulary=23, loop=loop).build()
    found = depths(model)
    parts: list[set[str]] = []
    for layer in model.stack.layers:
        inside = {id(parameter) for parameter in layer.parameters()}
        parts.append({found[name] for name, value in model.named_parameters() if id(value) in inside})
    assert parts == [{part} for part in expected.split()]
    assert "embedding.weight" not in found
