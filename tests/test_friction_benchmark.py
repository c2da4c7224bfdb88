"""benchmarks/friction.py on a toy: its cases, what a run's folder holds, and what the table says of them."""

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

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.recipe import Recipe
from bytegolf.recipes.friction_small import RECIPE as FRICTION_SMALL
from bytegolf.recipes.softmax_small import RECIPE as SOFTMAX_SMALL
from bytegolf.tokens.spec import Bytes

QUIET = Console(quiet=True)


@pytest.fixture
def friction(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("friction")


def options(out: Path = Path("runs"), **changes: Any) -> Namespace:
    words = {
        "text": ["kjv"],
        "validation": [],
        "tokenizer": None,
        "prepared": "",
        "seed": 1,
        "seconds": 90.0,
        "toy": False,
        "out": out,
        "cases": [],
        "seeds": [1, 2],
        "share": (0, 1),
        "missing": False,
    }
    return Namespace(**(words | changes))


def mixer(recipe: Recipe) -> Attention:
    (found,) = {layer.mixer for layer in recipe.model.layers}
    return found


def test_cases_are_the_recipe_with_one_mixer_each(friction: Any) -> None:
    recipes = {name: friction.recipe_of(name, options()) for name in friction.CASES}
    assert mixer(recipes["softmax"]) == mixer(SOFTMAX_SMALL)
    assert mixer(recipes["eta-mu-capacity-4"]) == mixer(FRICTION_SMALL)
    assert mixer(recipes["mu"]).friction == Friction("mu", capacity=None)
    assert len({mixer(recipe) for recipe in recipes.values()}) == len(recipes)
    plain = recipes["softmax"]
    for name, recipe in recipes.items():
        assert friction.CASES[name].control in friction.CASES
        same = replace(plain.model, layers=recipe.model.layers)
        assert replace(plain, name=recipe.name, model=same) == recipe
        assert {layer.mlp for layer in recipe.model.layers} == {FRICTION_SMALL.model.layers[0].mlp}
    assert plain.training == replace(FRICTION_SMALL.training, budget=plain.training.budget)
    assert plain.training.budget.seconds == 90.0


def test_every_case_learns(friction: Any) -> None:
    ids_BT = torch.arange(48).view(2, 24)
    starts_BT = torch.zeros(2, 24, dtype=torch.bool)
    for name in friction.CASES:
        recipe = friction.recipe_of(name, options(toy=True, seconds=None)).with_vocabulary(257)
        assert (recipe.tokens, recipe.training.budget.steps) == (Bytes(), 10)
        torch.manual_seed(0)
        model = recipe.model.build()
        with torch.no_grad():
            # So that gradients get past what starts at zero.
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.losses(ids_BT, ids_BT, starts_BT).mean().backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters()), name


def test_runs_are_dealt_out_and_finished_ones_passed_over(friction: Any, tmp_path: Path) -> None:
    words = {"cases": ["softmax", "mu", "eta-mu"], "toy": True}
    shares = [friction.recipes_of(options(tmp_path, share=(i, 2), **words)) for i in range(2)]
    assert [[*part] for part in shares] == [
        [f"{name}-seed{seed}" for name in ("softmax", "mu", "eta-mu")] for seed in (1, 2)
    ]
    assert {recipe.training.seed for recipe in shares[1].values()} == {2}
    assert {recipe.prepared for part in shares for recipe in part.values()} == {str(tmp_path / "data")}
    for name in ("softmax-seed1", "mu-seed2", "eta-mu-seed1"):
        (tmp_path / name).mkdir()
    (tmp_path / "softmax-seed1" / "result.json").write_text("{}")
    (tmp_path / "mu-seed2" / "result.json").write_text("{}")
    left = friction.recipes_of(options(tmp_path, missing=True, prepared="elsewhere", **words))
    assert [*left] == ["softmax-seed2", "mu-seed1", "eta-mu-seed1", "eta-mu-seed2"]
    assert {recipe.prepared for recipe in left.values()} == {"elsewhere"}
    for wrong in ("2/2", "1", "a/2"):
        with pytest.raises(friction.argparse.ArgumentTypeError, match="no share"):
            friction.share(wrong)


def test_a_run_says_what_was_scored_cut_and_copied(friction: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    out = tmp_path / "runs"
    cases = ["softmax", "eta-mu-learned"]
    given = options(out, text=[str(text)], toy=True, seconds=None, cases=cases, seeds=[3])
    for label, recipe in friction.recipes_of(given).items():
        small = replace(recipe, text=replace(recipe.text, cut_bytes=2000, held_out=0.1))
        friction.study(small, out / label, QUIET)
        with pytest.raises(RecipeError, match="already holds a run"):
            friction.study(small, out / label, QUIET)
    plain, cut = (json.loads((out / f"{name}-seed3" / "result.json").read_text()) for name in cases)
    for result in (plain, cut):
        kinds = [(score["model"], score["plan"].split()[0]) for score in result["scores"]]
        assert kinds == [("float", "chunked"), ("artifact", "chunked"), ("artifact", "sliding")]
    assert "edges" not in plain
    assert cut["edges"]["step"] == 10
    assert 0.0 < cut["edges"]["overall"]["edge_sparsity"] < 1.0
    assert [[*layer] for layer in plain["heads"]] == [["gain"]] * 2
    assert [[*layer] for layer in cut["heads"]] == [["gain", "bias", "weight"]] * 2
    assert cut["heads"][0]["weight"] != [1.0, 1.0]
    for name in cases:
        copied = json.loads((out / f"{name}-seed3" / "copying.json").read_text())
        assert [repeat["distance"] for repeat in copied["repeats"]] == [16, 32]
        assert copied["induction"]["paired"]["tokens"] > 100
    (row,) = friction.collected(out)
    assert row["change"] == "softmax"
    assert math.isclose(row["sliding"], plain["scores"][2]["bits_per_byte"])
    assert row["file"] == plain["scores"][1]["bits_per_byte"]


def finished(folder: Path, name: str, seed: int, score: float, cut: float | None) -> None:
    run = folder / f"{name}-seed{seed}"
    run.mkdir()
    scores = [
        {"model": "float", "bits_per_byte": 1.0},
        {"model": "artifact", "bits_per_byte": score},
        {"model": "artifact", "bits_per_byte": score - 0.5},
    ]
    data: dict[str, Any] = {"seed": seed, "scores": scores, "training": {"tokens": 100 * seed}}
    if cut is not None:
        data["edges"] = {"overall": {"edge_sparsity": cut, "tile_skip": {"128x64": cut / 2}}}
    (run / "result.json").write_text(json.dumps(data))
    answers = [{"again": {"accuracy": share}} for share in (0.75, 0.5, 0.25 / seed)]
    copied = {"repeats": answers, "induction": {"paired": {"accuracy": 0.4}}}
    (run / "copying.json").write_text(json.dumps(copied))
    events = [{"event": "train", "step": step, "seconds": 0.5 * step} for step in (1, 2, 12)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def test_the_table_holds_each_case_against_its_own_control(friction: Any, tmp_path: Path) -> None:
    for seed, score in ((1, 2.0), (2, 4.0)):
        finished(tmp_path, "softmax", seed, 7.0, None)
        finished(tmp_path, "eta-mu", seed, score, 0.9)
        finished(tmp_path, "mu", seed, score - 0.25 * seed, 0.8)
    finished(tmp_path, "log-domain", 3, 1.0, 0.5)
    rows = {row["change"]: row for row in friction.collected(tmp_path)}
    assert list(rows) == ["softmax", "eta-mu", "mu"]
    assert (rows["mu"]["control"], rows["mu"]["seeds"]) == ("eta-mu", [1, 2])
    assert rows["mu"]["difference"] == pytest.approx(-0.375)
    assert rows["eta-mu"]["difference"] == pytest.approx(-4.0)
    texts = dict(zip(friction.HEADINGS, friction.cells(rows["mu"]), strict=True))
    assert texts["sliding"] == "2.1250"
    assert (texts["tokens"], texts["step, ms"]) == ("150", "500.00")
    assert (texts["edges cut, %"], texts["tiles empty, %"]) == ("80.00", "40.00")
    assert (texts["copied near, %"], texts["far, %"], texts["after pairs, %"]) == ("75.0", "18.8", "40.0")
    assert friction.cells(rows["softmax"])[10:12] == ("", "")
    assert friction.table(list(rows.values())).row_count == 3
