"""Gates are half precision, or on their own grid whatever their size, in training as in the file."""

from collections.abc import Mapping

import torch

from bytegolf.compression.compress import compress_model
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.plan import Plan, is_matrix
from bytegolf.compression.quantization_aware import QuantizationAware
from bytegolf.compression.slots import weight_modules
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.compression.storage import Stored
from bytegolf.model.attention import Attention
from bytegolf.model.gates import OutGate
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block

GRID = Grid(8, StandardDeviations(6.0))


def _model() -> LanguageModel:
    torch.manual_seed(0)
    layer = Block(Attention(heads=4, key_value_heads=2, gate=OutGate(channels=6)), SquaredMlp(hidden=48))
    model = Model(width=32, layers=(layer,) * 2, vocabulary=40).build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def _gates(model: LanguageModel) -> set[str]:
    return {name for name, role in parameter_roles(model).items() if role == Role.GATE}


def _compressed(model: LanguageModel, plan: Plan) -> Mapping[str, Stored]:
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    return compress_model(dict(model.named_parameters()), roles, plan, passthrough_elements=1024)


def test_gates_are_floats_unless_they_have_a_grid() -> None:
    model, plan = _model(), FixedBits(Grid(6)).grids()
    names = _gates(model)
    assert names
    plain, gridded = _compressed(model, plan), _compressed(model, plan | {str(Role.GATE): GRID})
    for name, stored in gridded.items():
        value = model.get_parameter(name).detach()
        if name in names:
            assert value.numel() < 1024
            assert isinstance(plain[name], torch.Tensor)
            assert isinstance(stored, Quantized)
            assert torch.equal(stored.dequantize(), GRID.fake_quantize(value))
        else:
            assert type(stored) is type(plain[name])
            assert isinstance(stored, Quantized) == is_matrix(value, parameter_roles(model)[name], 1024)


def test_training_sees_the_grid_of_gates() -> None:
    model = _model()
    plan = FixedBits(Grid(6)).grids() | {str(Role.GATE): GRID}
    stage = QuantizationAware(model, 0.5, lambda: plan, 1024)
    stage.enter()
    modules = weight_modules(model)
    for name in _gates(model):
        weight = modules[name][0]
        assert weight.quantized is not None
        assert torch.equal(weight.quantized, GRID.fake_quantize(weight.weight.detach()))


def test_no_plan_has_a_grid_for_gates_by_itself() -> None:
    assert Role.GATE not in FixedBits(Grid(6)).grids()
    assert Compression().gates is None
