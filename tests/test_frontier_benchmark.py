"""benchmarks/frontier.py on a toy: what trains, what does not, and what each change is held against."""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from bytegolf.errors import CheckpointError, RecipeError
from bytegolf.model.spec import Model
from bytegolf.recipe import Recipe
from bytegolf.tokens.spec import TokenizerFile
from bytegolf.tokens.tokenizer import ByteTokenizer

QUIET = Console(quiet=True)


@pytest.fixture
def frontier(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("frontier")


def options(**changes: Any) -> Namespace:
    words = {"text": ["kjv"], "validation": [], "tokenizer": "bytes", "prepared": "", "seed": 1}
    return Namespace(**({**words, "seconds": 90.0, "tokenizer_for": []} | changes))


def toy(recipe: Recipe) -> Recipe:
    """A recipe at toy size, whose matrices are none too small to be quantized."""
    from toy_recipes import small

    return replace(small(recipe), compression=replace(small(recipe.compression), passthrough_elements=64))


def shapes(model: Model) -> frozenset[tuple[str, torch.Size]]:
    """Names and shapes of a network's weights."""
    with torch.device("meta"):
        built = replace(model, initialization="uniform").build()
    return frozenset((name, value.shape) for name, value in built.state_dict().items())


def test_every_change_differs_from_its_control_and_trains(frontier: Any) -> None:
    recipes = {name: frontier.recipe_of(name, options(tokenizer=None)) for name in frontier.CASES}
    parts = {
        name: (recipe.model, recipe.training, recipe.compression, recipe.tokens)
        for name, recipe in recipes.items()
    }
    # Without a tokenizer of its own the control of marked capitals has plain pieces, as many.
    assert recipes["none"].tokens == replace(recipes["caseops"].tokens, casing=False)
    assert len(set(parts.values())) == len(parts)
    ids_BT = torch.arange(32).view(2, 16)
    starts_BT = torch.zeros(2, 16, dtype=torch.bool)
    for name, recipe in recipes.items():
        assert frontier.CASES[name].control in frontier.CASES
        case = frontier.CASES[name]
        if case.trained is not None:
            # The same weights, whatever is made of them.
            models = [recipes[which].with_vocabulary(300).model for which in (name, case.trained)]
            assert len({shapes(model) for model in models}) == 1
            assert parts[name][1] == parts[case.trained][1]
            continue
        assert recipe.compression == recipes["none"].compression
        model = toy(recipe).with_vocabulary(ByteTokenizer().vocabulary).model.build()
        model.losses(ids_BT, ids_BT, starts_BT).mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_tokenizer_of_its_own_comes_with_tokens_of_its_own(frontier: Any) -> None:
    given = options(prepared="tokens", tokenizer_for=[frontier.named_file("caseops=cased.model")])
    plain, cased = frontier.recipe_of("loop", given), frontier.recipe_of("caseops", given)
    assert (plain.tokens, plain.prepared) == (TokenizerFile("bytes"), "tokens")
    assert (cased.tokens, cased.prepared) == (TokenizerFile("cased.model"), "tokens-caseops")
    spaced = frontier.recipe_of("caseops-before-space", given)
    assert (spaced.tokens.casing, spaced.prepared) == ("before_space", "tokens-caseops-before-space")
    assert frontier.recipe_of("caseops", options()).prepared == ""
    with pytest.raises(frontier.argparse.ArgumentTypeError, match="caseops"):
        frontier.named_file("loop=cased.model")


def test_what_acts_after_training_compresses_the_controls_training(frontier: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    given = options(text=[str(text)], seed=3)
    out = tmp_path / "runs"

    def recipe_of(name: str) -> Recipe:
        recipe = toy(frontier.recipe_of(name, given))
        return replace(recipe, text=replace(recipe.text, cut_bytes=2000))

    with pytest.raises(CheckpointError, match="run none first"):
        frontier.study("gptq-4", recipe_of("gptq-4"), out, QUIET)
    names = ("none", "gptq-4", "rotated-4", "corrected-all-4")
    results = [frontier.study(name, recipe_of(name), out, QUIET) for name in names]
    floats, files = ([run["scores"][i]["bits_per_byte"] for run in results] for i in (0, 1))
    assert len(set(floats)) == 1
    assert len(set(files)) == 4
    plain, gptq, rotated, corrected = (run["artifact"]["bytes"] for run in results)
    assert rotated < plain
    assert gptq < corrected < plain
    # Only the control has trained.
    assert [(out / f"{name}-seed3" / "metrics.jsonl").exists() for name in names] == [True, *[False] * 3]
    with pytest.raises(RecipeError, match="already holds a run"):
        frontier.study("none", recipe_of("none"), out, QUIET)
    rows = {row["change"]: row for row in frontier.collected(out)}
    assert list(rows) == list(names)
    assert rows["gptq-4"]["difference"] == files[1] - files[0]
    assert rows["rotated-4"]["difference"] == files[2] - files[1]
    assert rows["none"]["tokens"] == 3 * 4 * 32
    assert frontier.cells(rows["rotated-4"])[7:10] == ("", "", "")
    assert frontier.table(list(rows.values())).row_count == 4


def finished(folder: Path, name: str, seed: int, score: float, steps: list[tuple[int, float]]) -> None:
    run = folder / f"{name}-seed{seed}"
    run.mkdir()
    scores = [
        {"model": "float", "bits_per_byte": 1.0},
        {"model": "artifact", "bits_per_byte": score},
    ]
    training = {"tokens": 100 * seed, "tokens_per_second": 10.0}
    data = {"seed": seed, "scores": scores, "training": training, "artifact": {"bytes": 1000 + seed}}
    (run / "result.json").write_text(json.dumps(data))
    events = [{"event": "train", "step": step, "seconds": seconds} for step, seconds in steps]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def test_differences_are_those_of_files_to_the_changes_own_control(frontier: Any, tmp_path: Path) -> None:
    # Later only every tenth step stands in the record, and one was held up.
    steps = [(1, 1.0), (2, 1.5), (3, 9.0), (13, 14.0), (23, 19.0)]
    for seed, score in ((1, 2.0), (2, 4.0)):
        finished(tmp_path, "none", seed, 7.0, steps)
        finished(tmp_path, "loop", seed, score, steps)
        finished(tmp_path, "parcae", seed, score - 0.25 * seed, steps)
    finished(tmp_path, "parcae", 3, 100.0, steps)
    rows = {row["change"]: row for row in frontier.collected(tmp_path)}
    assert list(rows) == ["none", "loop", "parcae"]
    row = rows["parcae"]
    assert row["control"] == "loop"
    assert row["seeds"] == [1, 2]
    assert row["difference"] == pytest.approx(-0.375)
    assert row["spread"] == pytest.approx(0.125 * 2**0.5)
    assert row["noise"] == pytest.approx(2**0.5)
    assert row["step"] == pytest.approx(500.0)
    assert (row["tokens"], row["bytes"]) == (150, 1001.5)
    assert rows["loop"]["difference"] == pytest.approx(-4.0)
    assert rows["none"]["noise"] == 0.0
