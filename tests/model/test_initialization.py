"""Where a network starts: orthogonal matrices, and what keeps its own start."""

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.linear import Linear, ResidualLinear
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=160))


def spec(initialization: str) -> Model:
    return Model(width=96, layers=(LAYER,) * 2, vocabulary=70, initialization=initialization)  # type: ignore[arg-type]


@torch.no_grad()
def test_large_matrices_start_orthogonal_and_projections_into_the_stream_at_zero() -> None:
    torch.manual_seed(0)
    model = spec("orthogonal").build()
    checked = 0
    for layer in model.modules():
        if isinstance(layer, ResidualLinear):
            assert not layer.weight.any()
        elif isinstance(layer, Linear):
            orthogonal = torch.linalg.svdvals(layer.weight.double()).sub(1.0).abs().max() < 1e-5
            # Keys and values have 48 rows here.
            assert orthogonal == (min(layer.weight.shape) >= 64)
            checked += int(orthogonal)
    assert checked == 2 * 2


@torch.no_grad()
def test_all_else_starts_as_it_does_without() -> None:
    states = []
    for initialization in ("uniform", "orthogonal"):
        torch.manual_seed(5)
        states.append(spec(initialization).build().state_dict())
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == {
        f"stack.blocks.{i}.{part}.weight" for i in (0, 1) for part in ("mixer.query", "mlp.up")
    }


def test_two_matrices_of_a_shape_are_not_the_same_one() -> None:
    torch.manual_seed(0)
    first, second = spec("orthogonal").build().stack.layers
    assert not torch.equal(first.mixer.query.weight, second.mixer.query.weight)


@pytest.mark.parametrize("initialization", ["uniform", "orthogonal"])
def test_a_model_without_memory_can_be_built_either_way(initialization: str) -> None:
    with torch.device("meta"):
        model = spec(initialization).build()
    assert all(parameter.is_meta for parameter in model.parameters())
