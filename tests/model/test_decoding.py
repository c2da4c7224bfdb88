"""The reader on a GPU: its recorded steps are the forward pass, and follow changes of the weights."""

import copy
from typing import Any

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum, BigramXor
from bytegolf.model.decoding import Reader
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.value_embedding import ValueEmbedding

ROWS, LENGTH, VOCABULARY = 5, 40, 97
#: What reads the token before, or travels beside the residual stream.
INLETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gate": {"smear": SmearGate(), "bigram": BigramXor(64, 16), "value_embedding": ValueEmbedding(width=16)},
    "mix": {"smear": SmearMix(), "bigram": BigramSum(64, 16), "embedding": FactoredEmbedding(48, bias=True)},
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("friction", [None, Friction(capacity=1.0)], ids=["softmax", "friction"])
@pytest.mark.parametrize("inlet", INLETS.values(), ids=INLETS.keys())
@torch.no_grad()
def test_recorded_steps_are_the_forward_pass(
    window: int | None, precision: torch.dtype, inlet: dict[str, Any], friction: Friction | None
) -> None:
    torch.manual_seed(1)
    mixer = Attention(
        heads=4,
        key_value_heads=2,
        window=window,
        shared_values="value_embedding" in inlet,
        friction=friction,
    )
    layer = Block(mixer, SquaredMlp(hidden=64))
    model = Model(width=128, layers=(layer,) * 3, vocabulary=VOCABULARY, **inlet).build()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    model = model.cuda()
    model.compute_dtype = precision
    reader = Reader(model, ROWS, LENGTH)
    for first in (1, 17):
        ids = torch.randint(VOCABULARY, (ROWS, LENGTH))
        starts = torch.rand(ROWS, LENGTH) < 0.1
        starts[:, 0] = True
        exact = copy.deepcopy(model).double()
        exact.compute_dtype = torch.float64
        twin = exact.log_probabilities(ids.cuda(), starts)
        read = [reader.begin(ids[:, :first], starts[:, :first])]
        read += [reader.step(ids[:, t], starts[:, t]).clone() for t in range(first, LENGTH)]
        error = torch.stack(read, dim=1).double() - twin[:, first - 1 :]
        assert float(error.abs().max()) < (0.15 if precision == torch.bfloat16 else 2e-3)
        # In place: what was recorded reads the new values.
        model.embedding.weight.mul_(1.5)
