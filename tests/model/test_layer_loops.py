"""A loop is the network that has its layers written out once for each pass, with equal weights."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.linear import Linear
from bytegolf.model.loop import Loop, layer_order
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block, Stack, phase_share
from bytegolf.model.stream import Memory, Stream
from bytegolf.tree import from_json, to_json

KINDS = (
    Block(Attention(heads=2, key_value_heads=1, exclusive=True), SquaredMlp(hidden=8)),
    Block(Attention(heads=2, key_value_heads=2, window=3), SwiGlu(hidden=6)),
)


@pytest.mark.parametrize(
    ("layers", "half", "first", "second"),
    [
        (11, 8, "0 1 2 3 4 5 3 4", "5 3 4 5 6 7 8 9 10"),
        (12, 9, "0 1 2 3 4 5 3 4 5", "3 4 5 6 7 8 9 10 11"),
    ],
)
def test_the_published_loops_run_in_the_published_order(
    layers: int, half: int, first: str, second: str
) -> None:
    stack = Stack([KINDS[0]] * layers, 8, skips=True, loop=Loop(3, 5, 3))
    assert stack.order == tuple(map(int, f"{first} {second}".split()))
    assert stack.storing == half == len(first.split())
    assert stack.skip_ND.shape == (half, 8)


def unrolled(model: LanguageModel) -> LanguageModel:
    """The same function with a copy of its own for every pass of a layer."""
    spec, order = model.spec, model.stack.order
    layers = tuple(spec.layers[number] for number in order)
    values = {field: getattr(spec, field) for field in ("width", "skips", "soft_cap", "vocabulary")}
    copy = Model(layers=layers, **values).build().double()
    state = {
        name: value for name, value in model.state_dict().items() if not name.startswith("stack.blocks.")
    }
    for place, number in enumerate(order):
        for name, value in model.stack.blocks[number].state_dict().items():
            state[f"stack.blocks.{place}.{name}"] = value
    copy.load_state_dict(state)
    copy.compute_dtype = model.compute_dtype
    return copy


def looped(layers: int, loop: Loop, skips: Any, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    spec = Model(
        width=8,
        layers=tuple(KINDS[i % 2] for i in range(layers)),
        skips=skips,
        loop=loop,
        vocabulary=11,
    )
    model = spec.build().double()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(3))
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[0, 4] = starts[1, 7] = True
    return ids[:, :-1], ids[:, 1:], starts


loops = st.integers(1, 4).flatmap(
    lambda layers: st.tuples(st.just(layers), st.integers(0, layers - 1), st.integers(0, layers - 1))
)


@settings(max_examples=25, deadline=None)
@given(place=loops, passes=st.integers(1, 4), skips=st.sampled_from([True, False, "gated"]))
def test_a_loop_is_its_unrolled_network_and_its_gradient_the_sum_over_passes(
    place: tuple[int, int, int], passes: int, skips: Any
) -> None:
    layers, a, b = place
    model = looped(layers, Loop(min(a, b), max(a, b), passes), skips)
    copy = unrolled(model)
    losses, expected = model.losses(*batch()), copy.losses(*batch())
    assert torch.equal(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    for number, block in enumerate(model.stack.blocks):
        copies = [copy.stack.blocks[i] for i, layer in enumerate(model.stack.order) if layer == number]
        for name, parameter in block.named_parameters():
            total = sum(dict(one.named_parameters())[name].grad for one in copies)  # type: ignore[misc]
            torch.testing.assert_close(parameter.grad, total, rtol=1e-9, atol=1e-11)


def test_an_adapter_and_a_quantized_weight_act_in_every_pass() -> None:
    model = looped(3, Loop(1, 1, 3), True)
    copy = unrolled(model)
    plain = model.losses(*batch())
    torch.manual_seed(4)
    # An MLP's first matrix of 6 × 8, as an adapter's product.
    correction = 0.3 * torch.randn(6, 8, dtype=torch.float64)
    quantized = torch.randn(8, 6, dtype=torch.float64).round()
    for network in (model, copy):
        for number, block in enumerate(network.stack.layers):
            if (number if network is model else model.stack.order[number]) != 1:
                continue
            assert isinstance(block.mlp.up, Linear)
            block.mlp.up.adapter = lambda x: x @ correction.mT
            block.mlp.down.quantized = quantized  # type: ignore[union-attr]
    assert torch.equal(model.losses(*batch()), copy.losses(*batch()))
    assert not torch.equal(model.losses(*batch()), plain)


@torch.no_grad()
def test_each_pass_keeps_its_own_keys_while_decoding() -> None:
    model = looped(2, Loop(0, 1, 3), False)
    ids, _, starts = batch()
    memory = Memory()
    model.log_probabilities(ids[:, :4], starts[:, :4], memory)
    keys = [name for name in memory.tensors if name.startswith("blocks.0.mixer.keys")]
    assert len(keys) == 3
    for one, other in itertools.combinations(keys, 2):
        assert not torch.equal(memory.tensors[one], memory.tensors[other])
    assert memory.turn == 0


@torch.no_grad()
def test_skips_reach_from_one_pass_to_another() -> None:
    model = looped(1, Loop(0, 0, 4), True)
    stream = Stream.of(torch.zeros(1, 3, dtype=torch.bool))
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    block, first, second = model.stack.blocks[0], *model.stack.skip_ND
    once = block(x, x, stream)
    twice = block(once, x, stream)
    thrice = block(twice + first * twice, x, stream)
    expected = block(thrice + second * once, x, stream)
    torch.testing.assert_close(model.stack(x, stream), expected)


# The compiler's own: it looks at the gradient of all that it is given, and makes objects of torch's classes.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_loop_makes_no_code_for_a_second_pass() -> None:
    torch.manual_seed(0)
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=8))
    spec = Model(8, (layer,) * 3, loop=Loop(1, 1, 3), scaled_norms=True, skips="gated", vocabulary=11)
    model = spec.build()
    expected = model.losses(*batch())
    torch.compiler.reset()
    counts: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        counts.append(len(inputs))
        return graph.forward

    for block in model.stack.blocks:
        block.compile(backend=count)
    torch.testing.assert_close(model.losses(*batch()), expected)
    # One graph for all three layers and five passes.
    assert len(counts) == 1


@torch.no_grad()
def test_layers_at_phase_start_read_the_embedding_first_and_their_input_later() -> None:
    stack = Stack([KINDS[0]] * 9, 4, skips=False, residual_mix="phase")
    shares = [float(layer.residual_mix_2D[0, 0]) for layer in stack.layers]
    # σ(−1.5), σ(0), σ(1.5).
    assert [shares[0], shares[4], shares[8]] == pytest.approx([0.182426, 0.5, 0.817574], abs=1e-6)
    assert shares == sorted(shares)
    for layer in stack.layers:
        assert torch.equal(layer.residual_mix_2D.sum(0), torch.ones(4))
        assert not layer.residual_mix_2D.std(1).any()
    assert phase_share(0, 1) == pytest.approx(0.182426, abs=1e-6)


@torch.no_grad()
def test_layers_that_mix_nothing_compute_what_mixing_starts_with() -> None:
    plain = Model(width=8, layers=KINDS, vocabulary=16).build()
    unmixed = Model(width=8, layers=KINDS, vocabulary=16, residual_mix="none").build()
    mixes = {name for name in plain.state_dict() if "residual_mix" in name}
    assert len(mixes) == 2
    unmixed.load_state_dict({name: x for name, x in plain.state_dict().items() if name not in mixes})
    for name, parameter in unmixed.named_parameters():
        # What layers add starts at zero.
        if name.endswith(("out.weight", "down.weight")):
            plain.get_parameter(name).copy_(parameter.normal_())
    torch.testing.assert_close(unmixed.losses(*batch()), plain.losses(*batch()))


@torch.no_grad()
def test_gated_skips_start_as_half_and_half() -> None:
    model = looped(2, Loop(0, 0, 1), "gated")
    model.stack.gate_ND.zero_()
    model.stack.skip_ND.fill_(1.0)
    x, skip = torch.randn(2, 1, 4, 8, dtype=torch.float64)
    merged = model.stack.merge(x, skip, model.stack.skip_ND[0], model.stack.gate_ND[0])
    torch.testing.assert_close(merged, (x + skip) / 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Loop(-1, 2), "first=-1"),
        (lambda: Loop(3, 2), "first=3, last=2"),
        (lambda: Loop(0, 0, 0), "passes=0"),
        (lambda: Loop(0, 10**9, 10**9), "passes=1000000000"),
        (lambda: layer_order(3, Loop(1, 3)), r"loop\.last=3, but the layers are 0 to 2"),
        (lambda: Model(layers=KINDS, loop=Loop(0, 10**9, 64)), r"loop\.last=1000000000"),
        (lambda: from_json(Model, {**to_json(Model()), "skips": "gate"}), "skips is 'gate'"),
        (lambda: from_json(Model, {**to_json(Model()), "residual_mix": "late"}), "residual_mix is 'late'"),
    ],
)
def test_loops_that_cannot_run_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message):
        build()
