"""benchmarks/ablations.py: every change builds and differs, and differences are those of one seed."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bytegolf.tokens.tokenizer import ByteTokenizer


@pytest.fixture
def ablations(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("ablations")


def test_every_change_changes_the_recipe_and_builds(ablations: Any) -> None:
    from toy_recipes import small

    base = ablations.base(100_000)
    recipes = {name: ablations.changed(name, base) for name in ablations.CHANGES}
    plain = {name: (recipe.model, recipe.training) for name, recipe in recipes.items()}
    assert len(set(plain.values())) == len(recipes)
    ids_BT = torch.arange(32).view(2, 16)
    starts_BT = torch.zeros(2, 16, dtype=torch.bool)
    for recipe in recipes.values():
        model = small(recipe).with_vocabulary(ByteTokenizer().vocabulary).model.build()
        assert torch.isfinite(model.losses(ids_BT, ids_BT, starts_BT)).all()


def result(folder: Path, name: str, seed: int, score: float) -> None:
    run = folder / f"{name}-seed{seed}"
    run.mkdir()
    scores = [
        {"model": "float", "bits_per_byte": score},
        {"model": "artifact", "bits_per_byte": score + 0.5},
    ]
    data = {"seed": seed, "scores": scores, "training": {"parameters": 10}}
    (run / "result.json").write_text(json.dumps(data))


def test_a_change_is_held_against_none_of_its_own_seed(ablations: Any, tmp_path: Path) -> None:
    for seed, score in ((1, 2.0), (2, 4.0)):
        result(tmp_path, "none", seed, score)
        result(tmp_path, "swiglu", seed, score - 0.25 * seed)
    result(tmp_path, "swiglu", 3, 100.0)
    result(tmp_path, "z-loss", 2, 4.25)
    rows = {row["change"]: row for row in ablations.collected(tmp_path)}
    assert list(rows) == ["none", "swiglu", "z-loss"]
    assert rows["none"]["difference"] == 0.0
    assert rows["swiglu"]["seeds"] == [1, 2]
    assert rows["swiglu"]["float"] == pytest.approx((1.75 + 3.5) / 2)
    assert rows["swiglu"]["file"] == pytest.approx((1.75 + 3.5) / 2 + 0.5)
    assert rows["swiglu"]["difference"] == pytest.approx(-0.375)
    assert rows["swiglu"]["spread"] == pytest.approx(0.125 * 2**0.5)
    assert rows["z-loss"]["spread"] is None
    assert ablations.table(list(rows.values())).row_count == 3
