"""How much the loss rises when a matrix is disturbed."""

import pytest
import torch
from torch._dynamo.utils import counters

from bytegolf.compression.sensitivity import fisher_sensitivities
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))


# Torch's own compiler warns of torch's own scripting when it is loaded.
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_model_is_measured_as_it_is_written() -> None:
    torch.manual_seed(0)
    model = Model(width=16, layers=(LAYER,) * 2, vocabulary=23).build()
    ids = torch.randint(23, (2, 9))
    starts = torch.zeros(2, 8, dtype=torch.bool)
    batches = [(ids[:, :-1], ids[:, 1:], starts)]
    plain = fisher_sensitivities(model, batches)
    model.compile_parts()
    before = counters["frames"]["total"]
    assert fisher_sensitivities(model, batches) == plain
    assert counters["frames"]["total"] == before
    assert plain["embedding.weight"] > 0
