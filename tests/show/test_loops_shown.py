"""A network with a loop as `bytegolf show` tells it: weights once, work and memory for every pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from bytegolf.model.attention import Attention
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.show.network import plan_of
from bytegolf.show.page import print_plan
from bytegolf.show.picture import arc_columns, text_picture
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=64))
CPU = torch.device("cpu")


def recipe_of(count: int, loop: Loop | None, **changes: Any) -> Recipe:
    return Recipe(
        name="looped",
        text=Text(sources=("kjv",)),
        tokens=Bytes(),
        model=Model(**{"width": 32, "layers": (LAYER,) * count, "loop": loop} | changes),
        training=Training(budget=Budget(steps=10), rows=4, length=32, forward_rows=4),
    )


def test_a_loop_works_as_its_unrolled_network_and_weighs_as_its_layers() -> None:
    flat = plan_of(recipe_of(4, None), device=CPU)
    looped = plan_of(recipe_of(4, Loop(1, 2, 3)), device=CPU)
    unrolled = plan_of(recipe_of(8, None), device=CPU)
    # Of one layer a third skip and a fourth: the factors of 2 skips more.
    assert looped.parameters == flat.parameters + 2 * 32
    assert looped.flops_forward == unrolled.flops_forward > flat.flops_forward
    assert looped.memory["activations"] == pytest.approx(unrolled.memory["activations"], rel=0.02)


def test_the_picture_has_a_line_for_every_pass_and_arcs_over_them() -> None:
    plan = plan_of(recipe_of(4, Loop(1, 2, 3)), device=CPU)
    lines = text_picture(plan)[1:-1]
    assert [line.split()[0] for line in lines] == list("01212123")
    assert ["pass 2" in line for line in lines] == [i in (3, 4) for i in range(8)]
    assert [layer.skip_to for layer in plan.layers] == [7, 6, 5, 4, None, None, None, None]
    assert arc_columns(plan.layers) == arc_columns(plan_of(recipe_of(8, None), device=CPU).layers)


def test_each_layer_stands_once_in_the_table() -> None:
    plan = plan_of(recipe_of(4, Loop(1, 2, 3)), device=CPU)
    first = [layer for layer in plan.layers if not layer.turn]
    assert [layer.layer for layer in first] == [0, 1, 2, 3]


def test_extra_passes_are_work_of_scoring_and_have_no_skips() -> None:
    looped = plan_of(recipe_of(4, Loop(1, 2, 3)), device=CPU)
    more = plan_of(recipe_of(4, Loop(1, 2, 3, extra_passes=2)), device=CPU)
    assert more.parameters == looped.parameters
    assert more.flops_training == looped.flops_training == 3 * looped.flops_forward
    once = plan_of(recipe_of(2, None), device=CPU).flops_forward
    none = plan_of(recipe_of(1, None), device=CPU).flops_forward
    assert more.flops_forward - looped.flops_forward == pytest.approx(4 * (once - none))
    # Twelve places: of the first six, four are added again, as many as in training.
    assert [layer.skip_to for layer in more.layers] == [None, None, 9, 8, 7, 6, *[None] * 6]
    assert more.memory == looped.memory


def test_how_layers_are_joined_and_when_they_loop_is_told() -> None:
    loop = Loop(0, 1, 2, start=0.35, injection=Parcae(), extra_passes=1)
    layers = (LAYER, replace(LAYER, parallel=True), LAYER)
    plan = plan_of(recipe_of(3, loop, layers=layers, lanes=Lanes(2)), device=CPU)
    lines = text_picture(plan)[1:-1]
    assert [next(sign for sign in "→∥⇉" if sign in line) for line in lines] == list("→∥→∥→∥⇉")
    console = Console(width=160)
    with console.capture() as captured:
        print_plan(console, plan)
    words = " ".join(captured.get().split())
    assert "layers 0 to 1 run 2 times from 35 % of the budget on, once before; 3 times when scored" in words
    assert "between passes Parcae" in words
    assert "1 parallel" in words
    assert "2 two lanes" in words


def test_two_lanes_keep_about_as_much_for_the_backward_pass_as_two_streams() -> None:
    one = plan_of(recipe_of(4, None, skips=False), device=CPU).memory["activations"]
    two = plan_of(recipe_of(4, None, skips=False, lanes=Lanes(0)), device=CPU).memory["activations"]
    assert one < two < 1.6 * one
