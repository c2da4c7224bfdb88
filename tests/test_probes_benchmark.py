"""benchmarks/probes.py on a toy: changes of the recipe `best` one by one and together, a line for each."""

import json
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.errors import RecipeError
from bytegolf.recipe import Recipe
from bytegolf.recipes.best import RECIPE as BEST
from bytegolf.report.run_folder import read_run
from bytegolf.tokens.spec import Bytes


@pytest.fixture
def probes(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("probes")


def toy(text: Path) -> Recipe:
    from toy_recipes import small

    recipe = replace(small(BEST), compression=Compression(FixedBits(Grid(8)), passthrough_elements=64))
    return replace(recipe, text=replace(recipe.text, sources=(str(text),), cut_bytes=2000), tokens=Bytes())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    return path


def test_every_change_differs_and_builds(probes: Any) -> None:
    recipes = {name: probes.changed(name, BEST) for name in probes.CHANGES}
    assert recipes["none"] == BEST
    assert len({(recipe.model, recipe.training) for recipe in recipes.values()}) == len(recipes)
    with torch.device("meta"):
        for recipe in recipes.values():
            replace(recipe.model, vocabulary=32, initialization="uniform").build()


def test_changes_come_together(probes: Any) -> None:
    both = probes.changed("width-768+decay-0.2", BEST)
    assert (both.model.width, both.model.layers[5].mixer.heads, both.model.layers[5].mlp.hidden) == (
        768,
        12,
        2304,
    )
    assert both.training.optimizers.matrices.weight_decay == 0.2
    assert probes.changed("layers-8+width-512", BEST).model.layers[7].mlp.hidden == 1536
    with pytest.raises(RecipeError, match="wider is no change; there are none, "):
        probes.changed("none+wider", BEST)


def test_windows_leave_the_last_layer_its_row(probes: Any) -> None:
    windows = [layer.mixer.window for layer in probes.changed("windows", BEST).model.layers]
    assert windows == [256, None] * 3


def test_a_probe_says_what_it_took_and_what_it_knows_by_heart(
    probes: Any, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "probe"
    row = probes.probe(toy(text), folder, Console(quiet=True), compress=True)
    losses, _ = read_run(folder).points("train", "loss", "step")
    # One byte a token, but for the token that begins a document.
    assert row["last_batches"] == pytest.approx(sum(losses) / len(losses) / math.log(2), rel=0.01)
    assert row["file"] == pytest.approx(row["float"], abs=0.05)
    assert row["file"] != row["float"]
    assert row["bytes"] == (folder / "artifact.bg").stat().st_size
    assert row["training"]["steps"] == len(losses) == 3
    assert row["parameters"] > 0
    with pytest.raises(RecipeError, match="is there already"):
        probes.probe(toy(text), folder, Console(quiet=True), compress=False)


def test_lines_are_added_and_a_failure_stops_nothing(
    probes: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(recipe: Recipe) -> Recipe:
        return replace(recipe, prepared=str(text))  # No folder.

    monkeypatch.setattr(probes, "BEST", toy(text))
    monkeypatch.setattr(probes, "on_text", lambda recipe, options: with_steps(recipe, options))
    monkeypatch.setitem(probes.CHANGES, "failing", failing)
    words = ["failing", "none", "slope", "--out", str(tmp_path / "out"), "--seed", "5"]
    with pytest.raises(SystemExit, match="failed: failing"):
        probes.main(words)
    lines = [json.loads(line) for line in (tmp_path / "out" / "probes.jsonl").read_text().splitlines()]
    assert [(line["change"], line["seed"]) for line in lines] == [("none", 5), ("slope", 5)]
    assert lines[0]["float"] != lines[1]["float"]


def with_steps(recipe: Recipe, options: Namespace) -> Recipe:
    """The toy's budget instead of seconds, which no test should wait for."""
    budget = toy(Path("unread")).training.budget
    return replace(recipe, training=replace(recipe.training, budget=budget, seed=options.seed))
