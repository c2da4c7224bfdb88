"""A loop that begins part-way: one order of layers before it, another after, and nothing compiled between."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import (
    NETWORK,
    broken_off,
    changed,
    finished,
    losses_of,
    network,
    outcome,
    same_bits,
    trainer,
)

from bytegolf.model.attention import Attention
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.training.budget import Budget
from bytegolf.training.loop import QueuedStep, Trainer
from bytegolf.training.looping import begin_unlooped
from bytegolf.training.ranks import Ranks

LOOP = Loop(0, 1, 3, start=0.5, injection=Parcae(truncate=1), extra_passes=1)


def with_loop(loop: Loop | None, **values: Any) -> Model:
    return dataclasses.replace(NETWORK, loop=loop, **values)


def toy(
    layout: Model, folder: Path | None = None, *, dtype: torch.dtype = torch.float64, steps: int = 8
) -> Trainer:
    return trainer(
        changed(budget=Budget(steps=steps)), folder, stages=begin_unlooped, layout=layout, dtype=dtype
    )


def test_up_to_its_share_a_loop_is_the_network_without_one() -> None:
    plain, looped = toy(with_loop(None)), toy(with_loop(LOOP))
    looped.warm_up()
    orders: list[tuple[int, ...]] = []
    one_step = looped._one_step

    def step(*given: Any) -> QueuedStep:
        orders.append(looped.model.stack.order)
        return one_step(*given)

    looped._one_step = step  # type: ignore[method-assign]
    expected, losses = losses_of(plain), losses_of(looped)
    assert losses[:4] == expected[:4]
    assert all(a != b for a, b in zip(losses[4:], expected[4:], strict=True))
    # Extra passes are no part of training.
    assert orders == [(0, 1, 2)] * 4 + [(0, 1, 0, 1, 0, 1, 2)] * 4


def test_a_loop_from_the_start_trains_without_its_extra_passes() -> None:
    more = Loop(1, 1, 2, extra_passes=2)
    expected = losses_of(toy(with_loop(Loop(1, 1, 2))))
    assert losses_of(toy(with_loop(more))) == expected


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_run_has_the_order_of_layers_that_it_was_left_in(tmp_path: Path, stop: int) -> None:
    unbroken = finished(toy(with_loop(LOOP)))
    broken_off(toy(with_loop(LOOP), tmp_path), stop)
    resumed = toy(with_loop(LOOP), tmp_path)
    assert resumed.checkpoints is not None
    resumed.load_state_dict(resumed.checkpoints.load())
    assert resumed.model.stack.passes == (3 if stop > 4 else 1)
    resumed.warm_up()
    assert same_bits(outcome(finished(resumed)), outcome(unbroken))


def test_what_is_scored_along_the_way_has_the_order_of_its_time() -> None:
    run = toy(with_loop(LOOP))
    run.spec = changed(run.spec, validate_at=(0.25, 0.75))
    passes: list[int] = []

    def validate() -> tuple[float, float]:
        passes.append(run.model.stack.passes)
        return 1.0, 1.0

    run.validate = validate
    finished(run)
    assert passes == [1, 3]


def test_a_run_that_ends_before_its_loop_leaves_weights_for_the_looped_network() -> None:
    run = toy(with_loop(dataclasses.replace(LOOP, start=0.99)))
    finished(run)
    assert run.model.stack.passes == 1
    scored = network(layout=run.model.spec)
    scored.load_state_dict(run.model.state_dict())
    assert scored.stack.order == (*(0, 1) * 4, 2)
    # What no step used is as it began.
    for name, value in network(layout=run.model.spec).stack.injection.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(dict(scored.stack.injection.named_parameters())[name], value)  # type: ignore[union-attr]


# The compiler's own: it looks at the gradient of all that it is given, and makes objects of torch's classes.
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_compiled_where_a_loop_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (NETWORK.layers[0],) * 5
    counts: dict[int, int] = {}
    for passes in (2, 4):
        loop = dataclasses.replace(LOOP, first=1, last=2, passes=passes)
        run = toy(with_loop(loop, layers=layers, skips="gated", lanes=Lanes(4)), dtype=torch.float32)
        compiled: list[int] = []

        def count(graph: torch.fx.GraphModule, inputs: list[Any], compiled: list[int] = compiled) -> Any:
            compiled.append(len(inputs))
            return graph.forward

        torch.compiler.reset()
        with monkeypatch.context() as patch:
            # In place of the compiler itself, which would take a minute.
            patch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
            run.model.compile_parts()
            run.warm_up()
            prepared = len(compiled)
            losses = losses_of(run)
        assert len(compiled) == prepared
        assert losses == pytest.approx(losses_of(toy(run.model.spec, dtype=torch.float32)), rel=1e-5)
        counts[passes] = prepared
    # As much code for many passes as for few, but for the injection, whose first pass back takes no gradient.
    assert counts[2] + 1 == counts[4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_compiled_on_a_gpu_where_a_loop_begins() -> None:
    block = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64))
    layout = with_loop(
        Loop(1, 2, 3, start=0.5, injection=Parcae(truncate=1)),
        width=64,
        layers=(block,) * 5,
        skips="gated",
        lanes=Lanes(4),
    )
    run = trainer(
        changed(budget=Budget(steps=8), average=None),
        ranks=Ranks(device=torch.device("cuda")),
        stages=begin_unlooped,
        layout=layout,
        dtype=torch.bfloat16,
    )
    run.model.to("cuda")
    torch.compiler.reset()
    run.model.compile_parts()
    run.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):
        finished(run)
    assert run.model.stack.passes == 3
