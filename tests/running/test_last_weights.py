"""The last weights beside their average: a run says which is better, and can be stored again without it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bytegolf.cli import main
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import run
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.averaging import Average, StochasticAverage
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training


def toy(folder: Path) -> Recipe:
    folder.mkdir()
    for number in range(24):
        (folder / f"{number}.txt").write_text(f"{number} times {number} is {number * number}. " * 20)
    block = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32))
    return Recipe(
        name="toy",
        text=Text(sources=(str(folder),)),
        tokens=Bytes(),
        model=Model(width=16, layers=(block,)),
        training=Training(
            budget=Budget(steps=12),
            rows=8,
            length=32,
            forward_rows=8,
            precision="float32",
            average=Average(decay=0.99, corrected=False),
        ),
        evaluation=Evaluation(sample_tokens=4),
    )


def shown(recipe: Recipe, folder: Path) -> str:
    screen = io.StringIO()
    run(recipe, folder, device="cpu", console=Console(file=screen, width=1000))
    return screen.getvalue()


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_slow_average_is_named_and_left_out_by_compress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    said = shown(toy(tmp_path / "text"), folder)
    assert f"bytegolf compress {folder} --training.average none" in said
    before = result(folder)
    beside = before["training"]["average"]
    # Twelve steps at 0.99 are still nine tenths of the start values.
    assert beside["bits_per_byte"] > beside["last_weights"] + 0.1
    assert main(["compress", str(folder), "--training.average", "none", "--device", "cpu"]) == 0
    after = result(folder)
    gain = before["scores"][0]["bits_per_byte"] - after["scores"][0]["bits_per_byte"]
    assert gain == pytest.approx(beside["bits_per_byte"] - beside["last_weights"], rel=0.1)
    assert json.loads((folder / "recipe.json").read_text())["training"]["average"] is None
    assert main(["compress", str(folder), "--training.average", "Average"]) == 2
    assert "--training.average none" in capsys.readouterr().err


@pytest.mark.parametrize("average", [None, Average(decay=0.0), StochasticAverage(every=1, below=0.1)])
def test_nothing_is_said_where_nothing_is_lost(tmp_path: Path, average: Average | None) -> None:
    recipe = toy(tmp_path / "text")
    recipe = replace(recipe, training=replace(recipe.training, average=average))
    assert "compress" not in shown(recipe, tmp_path / "run").replace("compressing", "")
    beside = result(tmp_path / "run")["training"].get("average")
    # So short a run leaves nothing to the mean of snapshots.
    if not isinstance(average, Average):
        assert beside is None
    else:
        assert beside["bits_per_byte"] == pytest.approx(beside["last_weights"], abs=1e-6)
