"""The reader on a GPU: its recorded steps are the forward pass, and follow changes of the weights."""

import copy

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.decoding import Reader
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

ROWS, LENGTH, VOCABULARY = 5, 40, 97


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_recorded_steps_are_the_forward_pass(window: int | None, precision: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = Block(Attention(heads=4, key_value_heads=2, window=window), SquaredMlp(hidden=64))
    model = Model(width=128, layers=(layer,) * 3, vocabulary=VOCABULARY).build()
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
