"""The slots of a weight: adapters at zero change nothing; a quantized weight is exactly the exported grid."""

import copy

import pytest
import torch
from specs import SPECS, VOCABULARY, build, packed
from torch import Tensor, nn

from bytegolf.compression.floats import Float8, Float16
from bytegolf.compression.grid import AbsMax, BestQuantile, Grid, LeastSquares, StandardDeviations
from bytegolf.compression.storage import Storage, dequantized
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.model.linear import Linear, Weight
from bytegolf.model.roles import Component, Role
from bytegolf.model.spec import LanguageModel, Model

LENGTH = 23
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
GRIDS: list[Storage] = [
    Grid(8, AbsMax()),
    Grid(6, StandardDeviations(9.0)),
    Grid(4, LeastSquares()),
    Grid(5, BestQuantile()),
    Ternary(4),
    Binary(4),
    Float16(),
    Float8(),
]


class LowRank(Component):
    """x Aᵀ Bᵀ with B at zero, the usual start of an adapter."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.a = self.parameter("a", torch.randn(2, inputs, dtype=layer.weight.dtype), Role.SCALAR)
        self.b = self.parameter("b", torch.zeros(outputs, 2, dtype=layer.weight.dtype), Role.SCALAR)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.a.to(x.dtype).mT) @ self.b.to(x.dtype).mT


def linears(model: nn.Module) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def weights(model: nn.Module) -> list[Weight]:
    return [module for module in model.modules() if isinstance(module, Weight)]


@EVERY_SPEC
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@torch.no_grad()
def test_adapters_at_zero_change_nothing(spec: Model, dtype: torch.dtype) -> None:
    model = build(spec, dtype)
    ids, starts = packed(2, LENGTH, seed=1)
    before = model.losses(ids[:, :-1], ids[:, 1:], starts)
    assert len(linears(model)) >= 6 * len(spec.layers) - sum(b.mixer.tied_values for b in spec.layers)
    for layer in linears(model):
        layer.adapter = LowRank(layer)
    assert torch.equal(model.losses(ids[:, :-1], ids[:, 1:], starts), before)
    for layer in linears(model)[::5]:
        assert isinstance(layer.adapter, LowRank)
        layer.adapter.b.add_(0.3)
        assert not torch.equal(model.losses(ids[:, :-1], ids[:, 1:], starts), before)
        layer.adapter.b.zero_()
    for layer in linears(model):
        layer.adapter = None
    assert torch.equal(model.losses(ids[:, :-1], ids[:, 1:], starts), before)


@EVERY_SPEC
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_quantized_weights_act_as_the_exported_ones(spec: Model, dtype: torch.dtype) -> None:
    aware = build(spec, dtype)
    exported = copy.deepcopy(aware)
    with torch.no_grad():
        for index, (slot, plain) in enumerate(zip(weights(aware), weights(exported), strict=True)):
            values = dequantized(GRIDS[index % len(GRIDS)].quantize(slot.weight))
            slot.quantized = values
            plain.weight.copy_(values)
    ids, starts = packed(2, LENGTH, seed=2)
    loss, reference = (m.losses(ids[:, :-1], ids[:, 1:], starts) for m in (aware, exported))
    assert torch.equal(loss, reference)
    loss.sum().backward()
    reference.sum().backward()
    # Straight-through: the gradient is the one at the grid's values, given to the weights as they are.
    for (name, ours), (_, theirs) in zip(aware.named_parameters(), exported.named_parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None
            continue
        assert ours.grad is not None
        assert torch.equal(ours.grad, theirs.grad), name
    assert any(
        not torch.equal(a.weight, b.weight) for a, b in zip(weights(aware), weights(exported), strict=True)
    )


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.describe())
def test_the_slot_and_the_grids_own_fake_quantization_agree(grid: Storage) -> None:
    torch.manual_seed(1)
    layer = Linear(9, 7, Role.MLP_UP)
    x = torch.randn(5, 9)
    layer.quantized = dequantized(grid.quantize(layer.weight))
    y = layer(x)
    y.square().sum().backward()
    twin = layer.weight.detach().clone().requires_grad_()
    expected = x @ grid.fake_quantize(twin).mT
    expected.square().sum().backward()
    assert torch.equal(y, expected)
    torch.testing.assert_close(layer.weight.grad, twin.grad, rtol=1e-6, atol=1e-6)


def test_the_slot_is_used_to_the_bit_however_far_from_the_weight() -> None:
    torch.manual_seed(1)
    layer = Linear(30, 40, Role.MLP_UP)
    layer.quantized = 10.0 ** torch.randint(-6, 6, (40, 30)) * torch.randn(40, 30)
    used = layer.used_weight()
    assert torch.equal(used, layer.quantized)
    used.backward(layer.quantized)
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, layer.quantized)


@torch.no_grad()
def test_the_tied_head_uses_the_quantized_table_too() -> None:
    spec = next(iter(SPECS.values()))
    model = build(spec, torch.float32)
    hidden = torch.randn(4, spec.width)
    targets = torch.tensor([0, 3, VOCABULARY - 1, 3])
    before = model.nats(hidden, targets)
    model.embedding.quantized = Grid(3).quantize(model.embedding.weight).dequantize()
    after = model.nats(hidden, targets)
    assert not torch.equal(before, after)
    model.embedding.weight.copy_(model.embedding.quantized)
    model.embedding.quantized = None
    assert torch.equal(model.nats(hidden, targets), after)


def test_quantized_values_are_not_saved_with_the_model() -> None:
    model: LanguageModel = build(next(iter(SPECS.values())), torch.float32)
    names = set(model.state_dict())
    for slot in weights(model):
        slot.quantized = torch.zeros_like(slot.weight)
    assert set(model.state_dict()) == names == {name for name, _ in model.named_parameters()}
