"""Output gates: their formulas, their starts, what they read, and where they act."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.gates import FullGate, Gate, HeadGate, OutGate, SparseGate
from bytegolf.model.mlp import SquaredMlp, published_xielu
from bytegolf.model.roles import MATRIX_ROLES, Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream
from bytegolf.training.groups import Optimizers

WIDTH, HEADS = 16, 4
GATES: dict[str, Gate] = {
    "out": OutGate(channels=5),
    "out of the residual": OutGate(channels=5, reads="residual"),
    "out of the query": OutGate(channels=7, reads="query"),
    "full": FullGate(deviation=0.3),
    "sparse": SparseGate(channels=5, scale=0.5),
}
EVERY_GATE = pytest.mark.parametrize("gate", GATES.values(), ids=GATES.keys())
STARTS = torch.tensor([[True, False, False, True, False], [False, False, True, False, False]])


def layer_of(gate: Gate | None, **changes: Any) -> AttentionLayer:
    """A layer whose output is what its heads hand on, with a gate that is not at its start."""
    torch.manual_seed(3)
    layer = Attention(HEADS, 2, gate=gate, **changes).build(WIDTH, "layer").double()
    with torch.no_grad():
        layer.out.weight.copy_(torch.eye(WIDTH))
        if layer.gate is not None:
            layer.gate.weight.copy_(torch.randn_like(layer.gate.weight))
    return layer


def inputs() -> tuple[Tensor, Tensor, Stream]:
    """A normalized input, a residual that is not that input by a factor, and the documents."""
    torch.manual_seed(4)
    x_BTD, residual_BTD = torch.randn(2, 2, 5, WIDTH, dtype=torch.float64)
    return x_BTD, residual_BTD, Stream.of(STARTS)


def expected_factor(gate: Gate, layer: AttentionLayer, x_D: Tensor, residual_D: Tensor) -> Tensor:
    """The published formulas for one token, head by head: (H,)."""
    assert layer.gate is not None
    weight_HI = layer.gate.weight
    factors = []
    for head in range(HEADS):
        match gate:
            case OutGate(channels=channels, reads=reads):
                read = {"input": x_D, "residual": residual_D, "query": layer.query.weight @ x_D}[reads]
                logit = sum(weight_HI[head, i] * read[i] for i in range(channels))
                factors.append(2 / (1 + torch.exp(-torch.as_tensor(logit))))
            case FullGate():
                factors.append(1 / (1 + torch.exp(-(weight_HI[head] @ x_D))))
            case SparseGate(channels=channels, scale=scale):
                logit = sum(weight_HI[head, i] * x_D[i] for i in range(channels))
                factors.append(1 / (1 + torch.exp(-scale * torch.as_tensor(logit))))
    return torch.stack(factors)


@EVERY_GATE
@pytest.mark.parametrize(
    "changes",
    [{}, {"exclusive": True, "norm_output": True}, {"differential": 0.5, "tied_values": True}],
    ids=["plain", "exclusive, normalized", "differential, tied"],
)
@torch.no_grad()
def test_every_head_hands_on_its_share_of_what_it_would_without_a_gate(
    gate: Gate, changes: dict[str, Any]
) -> None:
    x, residual, stream = inputs()
    layer = layer_of(gate, **changes)
    gated = layer(x, stream, residual).unflatten(-1, (HEADS, -1))
    whole = layer_of(None, **changes)(x, stream, residual).unflatten(-1, (HEADS, -1))
    for row in range(2):
        for t in range(5):
            factor_H = expected_factor(gate, layer, x[row, t], residual[row, t])
            torch.testing.assert_close(gated[row, t], factor_H[:, None] * whole[row, t], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("gate", "factor"),
    [
        (OutGate(), 1.0),
        (OutGate(reads="residual"), 1.0),
        (OutGate(reads="query"), 1.0),
        (SparseGate(), 0.5),
        (SparseGate(scale=0.5), 0.5),
        (FullGate(deviation=0.0), 0.5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_gate_at_zero_is_one_factor_for_all_to_the_bit(
    gate: Gate, factor: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(5)
    gated, plain = Attention(HEADS, 2, gate=gate).build(WIDTH, "a"), Attention(HEADS, 2).build(WIDTH, "a")
    plain.out.weight.normal_()
    missing = gated.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["gate.weight"]
    x, residual, stream = inputs()
    x, residual = x.to(dtype), residual.to(dtype)
    assert torch.equal(gated(x, stream, residual), factor * plain(x, stream, residual))


def test_starts_are_the_published_ones() -> None:
    torch.manual_seed(0)
    for gate, inputs_ in ((OutGate(), 12), (OutGate(reads="residual"), 12), (SparseGate(), 12)):
        weight = gate.build(512, 8, 512).weight
        assert weight.shape == (8, inputs_)
        assert not weight.any()
    full = FullGate(deviation=0.005).build(512, 8, 512).weight
    assert full.shape == (8, 512)
    assert full.std().item() == pytest.approx(0.005, rel=0.05)


@EVERY_GATE
def test_gradients_are_those_of_differences(gate: Gate) -> None:
    layer = layer_of(gate, exclusive=True)
    assert layer.gate is not None
    weight = layer.gate.weight
    x, residual, stream = inputs()
    x, residual = x[:, :3], residual[:, :3]
    stream = Stream.of(STARTS[:, :3])

    def handed_on(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        changed = {"gate.weight": weight}
        found = torch.func.functional_call(layer, changed, (x, stream, residual))
        assert isinstance(found, Tensor)
        return found

    arguments = tuple(value.detach().clone().requires_grad_() for value in (x, residual, weight))
    # Rotary angles are float32, which differences do not notice: they are constants.
    assert torch.autograd.gradcheck(handed_on, arguments, atol=1e-6)


@EVERY_GATE
def test_a_gate_at_its_start_learns(gate: Gate) -> None:
    layer = layer_of(gate)
    assert layer.gate is not None
    torch.nn.init.zeros_(layer.gate.weight)
    x, residual, stream = inputs()
    layer(x, stream, residual).square().sum().backward()
    assert layer.gate.weight.grad is not None
    assert layer.gate.weight.grad.all()


@EVERY_GATE
@torch.no_grad()
def test_a_gate_reads_its_channels_alone(gate: Gate) -> None:
    layer = layer_of(gate)
    assert isinstance(layer.gate, HeadGate)
    inputs_ = layer.gate.weight.shape[1]
    u = torch.randn(3, WIDTH, dtype=torch.float64)
    factors = layer.gate(u)
    assert factors.shape == (3, HEADS)
    for channel in range(WIDTH):
        moved = u.clone()
        moved[:, channel] += 1.0
        assert torch.equal(layer.gate(moved), factors) == (channel >= inputs_)


@torch.no_grad()
def test_only_a_gate_of_the_residual_needs_it() -> None:
    x, residual, stream = inputs()
    for name, gate in GATES.items():
        layer = layer_of(gate)
        if name == "out of the residual":
            assert not torch.equal(layer(x, stream, residual), layer(x, stream, 2.0 * residual))
            with pytest.raises(AssertionError, match="was not given it"):
                layer(x, stream)
        else:
            assert torch.equal(layer(x, stream, residual), layer(x, stream))


@torch.no_grad()
def test_in_a_network_the_residual_is_what_the_input_was_normalized_from() -> None:
    torch.manual_seed(6)
    gates = (OutGate(channels=6, reads="residual"), OutGate(channels=6))
    of_residual, of_input = (
        Model(
            WIDTH,
            (Block(Attention(HEADS, 2, gate=gate), SquaredMlp(8)),) * 2,
            scaled_norms=True,
            vocabulary=11,
        ).build()
        for gate in gates
    )
    for parameter in of_residual.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    of_input.load_state_dict(of_residual.state_dict())
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in of_residual.stack.layers:
        layer.mixer.register_forward_pre_hook(lambda _, given: seen.append((given[0], given[2])))
    ids, starts = torch.randint(0, 11, (2, 7)), torch.zeros(2, 7, dtype=torch.bool)
    losses = of_residual.losses(ids, ids, starts)
    assert not torch.allclose(losses, of_input.losses(ids, ids, starts))
    for number, (x, residual) in enumerate(seen):
        scale = (number + 1) ** -0.5
        root = (residual.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()
        torch.testing.assert_close(x, scale * residual / root)
    assert len(seen) == 2


def test_gates_are_trained_as_scalars_are() -> None:
    layer = Attention(HEADS, 2, gate=OutGate()).build(WIDTH, "a")
    assert parameter_roles(layer)["gate.weight"] == Role.GATE
    assert Role.GATE not in MATRIX_ROLES
    optimizers = Optimizers()
    assert optimizers.treatment(Role.GATE) is optimizers.scalars


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OutGate(channels=0), "channels=0 of an attention gate"),
        (lambda: SparseGate(channels=-1), "channels=-1 of an attention gate"),
        (lambda: SparseGate(scale=0.0), "scale=0.0 of an attention gate"),
        (lambda: FullGate(deviation=-0.1), "deviation=-0.1 of an attention gate"),
        (lambda: Attention(2, 1, gate=SparseGate()).build(8, "a"), "channels=12 .* more than the 8 that"),
        (
            lambda: Attention(1, 1, head_width=8, gate=OutGate(reads="query")).build(16, "a"),
            "channels=12 .* more than the 8 that",
        ),
    ],
)
def test_errors_name_the_value(build: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build()


# The compiler's own: it looks at the gradient of all that it is given, and makes objects of torch's classes.
@pytest.mark.filterwarnings("ignore")
@EVERY_GATE
def test_layers_that_differ_in_numbers_alone_share_their_compiled_code(gate: Gate) -> None:
    torch.manual_seed(0)
    blocks = tuple(
        Block(
            Attention(HEADS, 2, rotary_dimensions=2 * (i % 2), query_gain=1.0 + i, gate=gate),
            published_xielu(i, hidden=8),
        )
        for i in range(3)
    )
    model = Model(WIDTH, blocks, scaled_norms=True, skips=False, vocabulary=11).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ids, starts = torch.randint(0, 11, (2, 7)), torch.zeros(2, 7, dtype=torch.bool)
    expected = model.losses(ids, ids, starts)
    torch.compiler.reset()
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, given: list[Any]) -> Any:
        graphs.append(len(given))
        return graph.forward

    for block in model.stack.blocks:
        block.compile(backend=count, fullgraph=True)
    torch.testing.assert_close(model.losses(ids, ids, starts), expected)
    assert len(graphs) == 1
