"""A network with a loop as `bytegolf show` tells it: weights once, work and memory for every pass."""

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.show.network import plan_of
from bytegolf.show.picture import arc_columns, text_picture
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=64))
CPU = torch.device("cpu")


def recipe_of(layers: int, loop: Loop | None) -> Recipe:
    return Recipe(
        name="looped",
        text=Text(sources=("kjv",)),
        tokens=Bytes(),
        model=Model(width=32, layers=(LAYER,) * layers, loop=loop),
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
