"""Every recipe at toy width: three steps, the file, and a score from the file."""

import dataclasses
import importlib
import json
import math
import pkgutil
import random
from pathlib import Path

import pytest
from toy_recipes import small

import bytegolf
import bytegolf.recipes
from bytegolf.compression.spec import FitBytes, FixedBits
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.recipe import Recipe
from bytegolf.runner import train
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.ranks import Ranks

NAMES = sorted(module.name for module in pkgutil.iter_modules(bytegolf.recipes.__path__))


def _fewer_choices(plan: FixedBits | FitBytes) -> FixedBits | FitBytes:
    """A byte budget chooses among the coarsest, the finest and one between: each costs every role a size."""
    if not isinstance(plan, FitBytes):
        return plan
    return dataclasses.replace(plan, choices=plan.choices[:: max(1, (len(plan.choices) - 1) // 2)])


def toy(name: str, text: Path) -> Recipe:
    recipe = small(importlib.import_module(f"bytegolf.recipes.{name}").RECIPE)
    return dataclasses.replace(
        recipe,
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        compression=dataclasses.replace(
            recipe.compression,
            plan=_fewer_choices(recipe.compression.plan),
            budget_bytes=1_000_000,
            passthrough_elements=64,
        ),
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(1)
    for number in range(12):
        words = draw.choices(["stone", "river", "went", "over", "the", "light", "again"], k=40)
        (folder / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_a_file_and_a_score_from_it(name: str, text: Path, tmp_path: Path) -> None:
    recipe, silent = toy(name, text), Display(None)
    trained = train(recipe, tmp_path, resume=False, ranks=Ranks.start("cpu"), display=silent)
    assert trained.training["steps"] == 3
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert len(set(losses)) == 3
    assert all(map(math.isfinite, losses))
    exported = export(
        trained.model, trained.recipe, trained.prepared, trained.seen_plan, trained.training, tmp_path
    )
    artifact = bytegolf.load(str(exported.path))
    document = (text / "0.txt").read_text()
    for plan in recipe.evaluation.plans:
        assert 0.0 < artifact.score(document, plan=plan).bits_per_byte < 9.0
    weights = dict(trained.model.named_parameters())
    for row in exported.plan_rows:
        # Three steps leave weights near their start; what the grid does to them is bounded all the same.
        assert row["relative_error"] < 0.75
    assert weights.keys() == dict(artifact.model.named_parameters()).keys()
    if recipe.evaluation.adaptation is not None:
        ids, starts = token_stream(artifact.tokenizer, [document, document])
        adapted = score(
            artifact.model,
            artifact.tokenizer,
            ids,
            starts,
            recipe.evaluation.plans[0],
            adaptation=recipe.evaluation.adaptation,
        )
        assert 0.0 < adapted.bits_per_byte < 9.0
