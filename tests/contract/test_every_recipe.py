"""Every recipe, at toy width, keeps the contracts that its components keep."""

import dataclasses
import importlib
import json
import pkgutil

import pytest
import torch
from specs import VOCABULARY, build, packed
from toy_recipes import small

import bytegolf.recipes
from bytegolf.artifact.source import source_bytes
from bytegolf.model.roles import parameter_roles
from bytegolf.model.stream import Memory
from bytegolf.recipe import Recipe
from bytegolf.runner import rehearse
from bytegolf.submission.folder import LIMIT_BYTES
from bytegolf.tokens.spec import Bytes
from bytegolf.tree import from_json, to_json

NAMES = [module.name for module in pkgutil.iter_modules(bytegolf.recipes.__path__)]
RECIPES = [importlib.import_module(f"bytegolf.recipes.{name}").RECIPE for name in NAMES]
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
LENGTH = 14


@EVERY_RECIPE
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe), allow_nan=False))) == recipe


def test_a_recipe_is_named_as_its_file() -> None:
    assert {recipe.name for recipe in RECIPES} == set(NAMES)
    assert "pocket" in NAMES


@EVERY_RECIPE
def test_every_parameter_of_a_recipe_has_a_role(recipe: Recipe) -> None:
    with torch.device("meta"):
        model = dataclasses.replace(recipe.model, vocabulary=VOCABULARY).build()
    assert set(parameter_roles(model)) == {name for name, _ in model.named_parameters()}


@EVERY_RECIPE
@torch.no_grad()
def test_a_recipe_keeps_the_contracts(recipe: Recipe) -> None:
    model = build(dataclasses.replace(small(recipe.model), vocabulary=VOCABULARY), torch.float32)
    ids, starts = packed(2, LENGTH, seed=1, share=0.0)
    starts[:, [0, 6]] = True

    for dtype in (torch.float32, torch.bfloat16):
        model.compute_dtype = dtype
        logs = model.log_probabilities(ids[:, :-1], starts)
        changed = ids.clone()
        changed[0, 3] = (changed[0, 3] + 1) % VOCABULARY
        new_logs = model.log_probabilities(changed[:, :-1], starts)
        # Only places 3 to 5 of row 0 see it: 6 begins another document.
        differs = (new_logs != logs).any(-1)
        assert differs[0, 3:6].all()
        assert int(differs.sum()) == 3

    model.compute_dtype = torch.float64
    model.double()
    logs = model.log_probabilities(ids[:, :-1], starts)
    memory = Memory()
    pieces = [model.log_probabilities(ids[:, t : t + 1], starts[:, t : t + 1], memory) for t in range(LENGTH)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logs, rtol=0, atol=1e-9)
    alone = model.log_probabilities(ids[:, 6:-1], starts[:, 6:])
    # Rotary angles are float32, and at this size their rounding has been through many layers.
    torch.testing.assert_close(alone, logs[:, 6:], rtol=0, atol=1e-4)


@EVERY_RECIPE
def test_a_recipe_can_be_rehearsed_before_its_text_is_there(recipe: Recipe) -> None:
    rehearse(dataclasses.replace(small(recipe), tokens=Bytes()), torch.device("cpu"))


def test_recipes_for_the_challenge_leave_room_for_its_script() -> None:
    budgets = {recipe.name: recipe.compression.budget_bytes for recipe in RECIPES}
    large = {name: budget for name, budget in budgets.items() if budget and budget > LIMIT_BYTES // 2}
    assert "best" in large
    assert max(large.values()) + source_bytes() <= LIMIT_BYTES
