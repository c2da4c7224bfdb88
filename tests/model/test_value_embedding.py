"""The shared value embedding: what it adds, to which layers, and what must agree."""

import pytest
import torch

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream
from bytegolf.model.value_embedding import ValueEmbedding

PLAIN = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(8))
TAKES = Block(Attention(heads=2, key_value_heads=1, shared_values=True), SquaredMlp(8))


@torch.no_grad()
def test_a_layer_adds_its_share_to_its_values() -> None:
    torch.manual_seed(1)
    layer = Attention(heads=2, key_value_heads=2, shared_values=True).build(8, "a").double()
    layer.out.weight.copy_(torch.eye(8))
    layer.shared_1.fill_(0.7)
    x, shared = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    # Documents of one token: each head reads its own value.
    stream = Stream.of(torch.ones(1, 5, dtype=torch.bool))
    stream.shared_values_BTX = shared
    torch.testing.assert_close(layer(x, stream), layer.values(x) + 0.7 * shared)


@torch.no_grad()
def test_what_is_shared_is_the_scaled_projection_of_the_table() -> None:
    torch.manual_seed(1)
    layer = ValueEmbedding(width=3).build(11, 4).double()
    ids = torch.tensor([[2, 0, 10]])
    expected = 0.1 * layer.table.weight[ids] @ layer.projection.weight.mT
    torch.testing.assert_close(layer(ids, torch.float64), expected)
    assert expected.any()


def test_only_layers_that_take_it_have_a_factor_and_see_it() -> None:
    torch.manual_seed(1)
    spec = Model(8, (PLAIN, TAKES, TAKES), value_embedding=ValueEmbedding(width=3), vocabulary=11)
    model = spec.build()
    factors = [name for name in parameter_roles(model) if name.endswith("shared_1")]
    assert factors == ["stack.blocks.1.mixer.shared_1", "stack.blocks.2.mixer.shared_1"]
    roles = parameter_roles(model)
    assert roles["value_embedding.table.weight"] is Role.VALUE_EMBEDDING
    assert roles["value_embedding.projection.weight"] is Role.EMBEDDING_PROJECTION
    with torch.no_grad():
        for layer in model.stack.layers:
            layer.mixer.out.weight.normal_()
    ids, starts = torch.randint(0, 11, (2, 6)), torch.zeros(2, 6, dtype=torch.bool)
    model.losses(ids, ids, starts).sum().backward()
    for name, parameter in model.named_parameters():
        if "value_embedding" in name or "shared_1" in name:
            assert parameter.grad is not None
            assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("layers", "embedding", "message"),
    [
        ((PLAIN, TAKES), None, "value_embedding is None; a value embedding needs both"),
        ((PLAIN, PLAIN), ValueEmbedding(), "no layer has shared_values; a value embedding needs both"),
        (
            (TAKES, Block(Attention(heads=2, key_value_heads=2, shared_values=True), SquaredMlp(8))),
            ValueEmbedding(),
            "values of 4 and 8 channels; give them the same key_value_heads and head_width",
        ),
    ],
)
def test_network_and_value_embedding_must_agree(
    layers: tuple[Block, ...], embedding: ValueEmbedding | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Model(8, layers, value_embedding=embedding, vocabulary=5)


@pytest.mark.parametrize("field", ["width", "deviation", "scale"])
def test_a_value_embedding_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(RecipeError, match=rf"{field}=0(\.0)? of a value embedding"):
        ValueEmbedding(**{field: 0 if field == "width" else 0.0})  # type: ignore[arg-type]
