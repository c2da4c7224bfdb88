"""The stack against the way in which the challenge runs layers: encoder list, decoder list, two lanes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.block import Block
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import Model
from bytegolf.model.stack import Stack
from bytegolf.model.stream import Memory, Stream

WIDTH = 8
KINDS = (
    Block(Attention(heads=2, key_value_heads=1, exclusive=True), SquaredMlp(hidden=8)),
    Block(Attention(heads=2, key_value_heads=2, window=3), SwiGlu(hidden=6), parallel=True),
)
PLAIN = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=8))


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 2.0**-23)


def moved(blocks: list[Block], **settings: Any) -> Stack:
    """A stack in float64 with weights far from their start."""
    torch.manual_seed(0)
    stack = Stack(blocks, WIDTH, **settings).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return stack


def one_lane(layer: Any, parallel: bool, x: Tensor, x0: Tensor, stream: Stream) -> Tensor:
    mix = layer.residual_mix_2D
    x = mix[0] * x + mix[1] * x0
    attended = layer.mixer(norm(x), stream, x)
    return x + attended + layer.mlp(norm(x if parallel else x + attended))


def two_lanes(
    layer: Any, lanes: Lanes, lane0: Tensor, lane1: Tensor, x0: Tensor, stream: Stream
) -> tuple[Tensor, Tensor]:
    mix, r, p = layer.residual_mix_2D, layer.residual_2, layer.written_22
    read = mix[0] * lane0 + mix[1] * x0
    attended = layer.mixer(norm(read), stream, read)
    put = layer.mlp(norm(lane1 if lanes.mlp_reads == "lane" else mix[0] * lane1 + mix[1] * x0))
    return r[0] * lane0 + p[0, 0] * attended + p[0, 1] * put, r[1] * lane1 + p[1, 0] * attended + p[
        1, 1
    ] * put


def by_hand(
    stack: Stack, blocks: list[Block], loop: Loop | None, lanes: Lanes | None, passes: int, x: Tensor
) -> Tensor:
    """The published order: lists split at the half, a stack of skips, a count of the loop's entries."""
    stream = Stream.of(torch.zeros(x.shape[:2], dtype=torch.bool))
    order = list(range(len(blocks)))
    if loop is not None:
        segment = order[loop.first : loop.last + 1]
        order = order[: loop.first] + segment * passes + order[loop.last + 1 :]
    encoder, decoder = order[: len(order) // 2], order[len(order) // 2 :]
    trained = 0 if stack._most_skips == 0 else stack.skip_ND.shape[0]
    x0, skips, loop_count = x, [], 0
    lane0 = lane1 = None

    def boundary(x: Tensor, i: int) -> Tensor:
        nonlocal loop_count
        if loop is None or loop.injection is None or i != loop.first:
            return x
        loop_count += 1
        if loop_count == 1:
            return x
        if loop_count <= loop.injection.truncate + 1:
            x = x.detach()
        injection = stack.injection
        assert injection is not None
        delta = torch.log1p(torch.exp(injection.step_D))
        decay = torch.exp(-delta * torch.exp(injection.log_decay_D))
        return decay * x + delta * injection.gain_D * x0

    def merge(x: Tensor, number: int) -> Tensor:
        if number >= trained or not skips:
            return x
        skip = stack.skip_ND[number] * skips.pop()
        if not stack.gated:
            return x + skip
        return torch.sigmoid(stack.gate_ND[number]) * x + torch.sigmoid(-stack.gate_ND[number]) * skip

    for number, i in enumerate([*encoder, *decoder]):
        x = boundary(x, i)
        if lanes is not None and i >= lanes.start:
            if lane0 is None:
                lane0 = lane1 = x
            if number >= len(encoder):
                lane0 = merge(lane0, number - len(encoder))
            lane0, lane1 = two_lanes(stack.blocks[i], lanes, lane0, lane1, x0, stream)
            x = lane0
        else:
            if number >= len(encoder):
                x = merge(x, number - len(encoder))
            x = one_lane(stack.blocks[i], blocks[i].parallel, x, x0, stream)
        if number < len(encoder):
            skips.append(x)
    if lanes is None or lane1 is None:
        return x
    return {"mean": (x + lane1) / 2, "attention": x, "mlp": lane1}[lanes.output]


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Block], Loop | None, Lanes | None, int]:
    """Blocks, loop, lanes behind it, and how many passes run: one, as in training, or as in scoring."""
    count = draw(st.integers(1, 5))
    begin = draw(st.integers(0, count))
    looped = draw(st.booleans()) and begin > 0
    loop = None
    if looped:
        a, b = sorted(draw(st.tuples(st.integers(0, begin - 1), st.integers(0, begin - 1))))
        passes = draw(st.integers(1, 3))
        truncate = draw(st.none() | st.integers(0, 3)) if passes > 1 else None
        loop = Loop(
            a,
            b,
            passes,
            injection=None if truncate is None else Parcae(truncate=truncate),
            extra_passes=draw(st.integers(0, 2)),
        )
    lanes = None
    if begin < count:
        lanes = Lanes(
            begin,
            mlp_reads=draw(st.sampled_from(["lane", "mix"])),
            output=draw(st.sampled_from(["mean", "attention", "mlp"])),
        )
    blocks = [PLAIN if i >= begin else KINDS[i % 2] for i in range(count)]
    run = 1 if loop is None else draw(st.sampled_from([1, loop.passes, loop.scored_passes]))
    return blocks, loop, lanes, run


@settings(max_examples=60, deadline=None)
@given(network=networks(), skips=st.sampled_from([True, False, "gated"]))
def test_a_stack_and_its_gradients_are_those_of_the_published_loop(
    network: tuple[list[Block], Loop | None, Lanes | None, int], skips: Any
) -> None:
    blocks, loop, lanes, passes = network
    stack = moved(blocks, skips=skips, loop=loop, lanes=lanes)
    stack.run_passes(passes)
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for compute in (
        lambda x: stack(x, Stream.of(torch.zeros(2, 5, dtype=torch.bool))),
        lambda x: by_hand(stack, blocks, loop, lanes, passes, x),
    ):
        stack.zero_grad()
        entering = x.clone().requires_grad_()
        y = compute(entering)
        y.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in stack.named_parameters()}
        results.append((y, entering.grad, gradients))
    (y, grad, gradients), (expected, expected_grad, expected_gradients) = results
    tolerance = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(y, expected, **tolerance)
    torch.testing.assert_close(grad, expected_grad, **tolerance)
    for name, gradient in gradients.items():
        wanted = expected_gradients[name]
        assert (gradient is None) == (wanted is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted, **tolerance)


@pytest.mark.parametrize(
    ("layers", "passes", "encoder", "decoder", "skips"),
    [
        (11, 1, "0 1 2 3 4", "5 6 7 8 9 10", 5),
        (11, 3, "0 1 2 3 4 5 3 4", "5 3 4 5 6 7 8 9 10", 8),
        (11, 4, "0 1 2 3 4 5 3 4 5 3", "4 5 3 4 5 6 7 8 9 10", 8),
        (12, 1, "0 1 2 3 4 5", "6 7 8 9 10 11", 6),
        (12, 3, "0 1 2 3 4 5 3 4 5", "3 4 5 6 7 8 9 10 11", 9),
        (12, 5, "0 1 2 3 4 5 3 4 5 3 4 5", "3 4 5 3 4 5 6 7 8 9 10 11", 9),
    ],
)
def test_each_phase_has_the_published_lists_and_skips(
    layers: int, passes: int, encoder: str, decoder: str, skips: int
) -> None:
    stack = Stack([PLAIN] * layers, WIDTH, skips="gated", loop=Loop(3, 5, 3))
    stack.run_passes(passes)
    assert stack.order[: stack.storing] == tuple(map(int, encoder.split()))
    assert stack.order[stack.storing :] == tuple(map(int, decoder.split()))
    assert stack.skips == skips
    # As many as training's order needs, whatever runs.
    assert stack.skip_ND.shape == stack.gate_ND.shape == (layers // 2 + 3, WIDTH)


def test_a_stack_as_built_runs_the_passes_of_scoring_and_can_run_others_for_a_while() -> None:
    stack = Stack([PLAIN] * 2, WIDTH, skips=False, loop=Loop(0, 0, 2, start=0.4, extra_passes=1))
    assert stack.order == (0, 0, 0, 1)
    with stack.running(1):
        assert stack.order == (0, 1)
    assert stack.order == (0, 0, 0, 1)


@torch.no_grad()
def test_extra_passes_keep_keys_of_their_own_while_decoding() -> None:
    stack = moved([PLAIN] * 2, skips=False, loop=Loop(0, 0, 2, extra_passes=2))
    memory = Memory()
    starts = torch.zeros(1, 3, dtype=torch.bool)
    stack(torch.randn(1, 3, WIDTH, dtype=torch.float64), Stream.of(starts, memory))
    assert len([name for name in memory.tensors if name.startswith("blocks.0.mixer.keys")]) == 4


@torch.no_grad()
def test_injection_starts_at_the_published_values() -> None:
    layer = Parcae().build(4)
    # Δ = softplus(1) = 1.3133: Ā = exp(−1.3133 · exp(−½)), B̄ = 0.1 Δ.
    kept, injected = torch.ones(4), torch.zeros(4)
    assert float(layer(kept, injected)[0]) == pytest.approx(0.4509, abs=1e-4)
    assert float(layer(injected, kept)[0]) == pytest.approx(0.1313, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(log_decay=st.floats(-6, 3), step=st.floats(-6, 6))
def test_what_is_kept_of_the_residual_never_grows(log_decay: float, step: float) -> None:
    layer = Parcae(log_decay, step, gain=1.0).build(3)
    with torch.no_grad():
        assert 0.0 <= float(layer(torch.ones(3), torch.zeros(3))[0]) <= 1.0


def test_truncation_changes_gradients_and_no_value() -> None:
    outputs, gradients = [], []
    for truncate in (0, 1, 2):
        injection = Parcae(truncate=truncate)
        stack = moved([PLAIN] * 2, skips=False, loop=Loop(0, 0, 3, injection=injection))
        x = torch.ones(1, 2, WIDTH, dtype=torch.float64).cumsum(2).requires_grad_()
        y = stack(x, Stream.of(torch.zeros(1, 2, dtype=torch.bool)))
        y.sum().backward()
        outputs.append(y)
        gradients.append(stack.layers[0].mlp.down.weight.grad)  # type: ignore[union-attr]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[1], gradients[2])


def test_factors_of_lanes_exist_where_there_are_lanes_and_start_as_published() -> None:
    stack = Stack([PLAIN] * 3, WIDTH, skips=True, lanes=Lanes(1))
    factors = {name: value for name, value in stack.named_parameters() if name.endswith(("_2", "_22"))}
    assert sorted(factors) == [f"blocks.{i}.{name}" for i in (1, 2) for name in ("residual_2", "written_22")]
    for name, value in factors.items():
        assert torch.equal(value, torch.full_like(value, 1.1 if name.endswith("residual_2") else 1.0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Loop(0, 1, 2, start=1.0), "start=1.0 of a loop"),
        (lambda: Loop(0, 1, 2, start=-0.1), "start=-0.1 of a loop"),
        (lambda: Loop(0, 1, 1, injection=Parcae()), "passes=1 of a loop with injection"),
        (lambda: Loop(0, 1, 2, extra_passes=-1), "extra_passes=-1"),
        (lambda: Loop(0, 1, 60, extra_passes=5), "extra_passes=5; give 0 to 4"),
        (lambda: Parcae(truncate=-1), "injection.truncate=-1"),
        (lambda: Lanes(-1), "lanes.start=-1"),
        (lambda: Model(lanes=Lanes(9)), "lanes.start=9, but the layers are 0 to 8"),
        (lambda: Model(lanes=Lanes(5), loop=Loop(3, 5)), "loop.last=5 has two lanes, which begin at layer 5"),
        (lambda: Model(layers=KINDS * 2, lanes=Lanes(2)), "layers.3.parallel is set"),
    ],
)
def test_orders_that_cannot_run_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        build()
