"""The grids that training sees: one choice, the lead's, on all ranks."""

from typing import cast

import torch

from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.running.grids import early_plan
from bytegolf.text.spec import Text
from bytegolf.tokens.shards import Prepared
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training


class Line(Ranks):
    """A rank of two that keeps what the lead says, or has heard it."""

    messages: list[str]

    def from_lead(self, text: str) -> str:
        if self.leads:
            self.messages.append(text)
        return self.messages[0]


def rank_of_two(rank: int, messages: list[str]) -> Line:
    line = Line(rank, 2, torch.device("cpu"))
    object.__setattr__(line, "messages", messages)
    return line


def recipe_with_bits(bits: int) -> Recipe:
    return Recipe(
        name="toy",
        text=Text(sources=("nowhere",)),
        tokens=Bytes(),
        model=Model(
            width=32, vocabulary=257, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64)),)
        ),
        training=Training(budget=Budget(steps=1), rows=8, length=32),
        compression=Compression(plan=FixedBits(Grid(bits, StandardDeviations(7.5)))),
    )


def test_the_leads_grids_are_those_of_every_rank() -> None:
    messages: list[str] = []
    # With fixed grids nothing is measured, neither on the model nor on text.
    nothing = cast(Prepared, None)
    plans = []
    for rank, bits in enumerate((5, 7)):
        recipe = recipe_with_bits(bits)
        plans.append(early_plan(recipe.model.build(), recipe, nothing, rank_of_two(rank, messages)))
    assert len(messages) == 1
    assert plans[0] == plans[1]
    assert {grid.bits for grid in plans[1].values() if isinstance(grid, Grid)} == {5}
