"""How much the loss rises when a matrix is disturbed."""

import pytest
import torch
from torch._dynamo.utils import counters

from bytegolf.compression.gptq import Gptq, gptq_quantize
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.residual import error_of, hessian_error
from bytegolf.compression.sensitivity import fisher_sensitivities, rounding_gains
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


@pytest.mark.parametrize("act_order", [True, False])
def test_the_gain_of_rounding_in_turn_is_foretold_by_the_inputs(act_order: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    spread_CC = torch.randn(48, 48, generator=generator) * torch.linspace(0.2, 2.0, 48)
    x_NC = torch.randn(500, 48, generator=generator) @ spread_CC
    hessian_CC = x_NC.T @ x_NC / len(x_NC)
    weight_RC = torch.randn(200, 48, generator=generator)
    grid, spec = Grid(6, StandardDeviations(8.0)), Gptq(act_order=act_order)
    losses = [
        hessian_error(error_of(weight_RC, matrix), hessian_CC)
        for matrix in (gptq_quantize(weight_RC, hessian_CC, grid, spec), grid.quantize(weight_RC))
    ]
    (gain,) = rounding_gains({"w": hessian_CC}, spec).values()
    assert gain < 0.8
    assert losses[0] / losses[1] == pytest.approx(gain, rel=0.05)


def test_inputs_that_say_nothing_of_one_another_give_no_gain() -> None:
    alike = {"identity": torch.eye(8), "zero": torch.zeros(8, 8)}
    assert rounding_gains(alike, Gptq()) == {"identity": pytest.approx(1.0), "zero": 1.0}
