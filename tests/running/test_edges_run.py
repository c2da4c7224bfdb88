"""Runs of two steps: with friction they tell of their edges everywhere, and without nowhere."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import compress_run, run
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

SENTENCE = "The river went over the stone, and the light came down again. "


def finished(folder: Path, friction: Friction | None) -> tuple[dict[str, Any], str]:
    """The result of a run in `folder`/run, and what it said."""
    text = folder / "text"
    text.mkdir()
    for number in range(6):
        (text / f"{number}.txt").write_text(SENTENCE[number:] * 5, encoding="utf-8")
    attention = Attention(heads=2, key_value_heads=1, friction=friction, rotary=friction is None)
    recipe = Recipe(
        name="edges",
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        model=Model(width=8, layers=(Block(attention, SquaredMlp(8)),) * 2),
        training=Training(
            Budget(steps=2), rows=2, length=64, forward_rows=2, precision="float32", validate_at=(0.5,)
        ),
        compression=Compression(FixedBits(Grid(8)), passthrough_elements=64),
        evaluation=Evaluation(sample_tokens=0),
    )
    out = io.StringIO()
    result = run(recipe, folder / "run", device="cpu", console=Console(file=out, width=200))
    return result, out.getvalue()


def test_a_run_tells_of_its_edges(tmp_path: Path) -> None:
    result, said = finished(tmp_path, Friction(capacity=1.0))
    folder = tmp_path / "run"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["train", "validation", "edges", "train", "edges"]
    first, last = (line for line in lines if line["event"] == "edges")
    assert (first["step"], last["step"]) == (1, 2)
    assert [layer["layer"] for layer in last["layers"]] == [0, 1]
    assert all(len(layer["edge_sparsity"]) == 2 for layer in last["layers"])
    # A held-out document of 310 bytes makes four rows of 64.
    assert (last["rows"], last["length"]) == (4, 64)
    assert last["layers"][0]["visible"] == 4 * 64 * 65 // 2
    assert {"event": "edges", **result["edges"]} == last
    assert json.loads((folder / "result.json").read_text())["edges"] == result["edges"]
    assert "edges    " in said
    assert "of visible ones cut" in said
    assert '<section id="edges"' in (folder / "report.html").read_text()
    # Compressing the run again trains nothing, and what was measured stays.
    assert compress_run(folder, device="cpu")["edges"] == result["edges"]


@pytest.mark.parametrize("friction", [None, Friction("softmax", capacity=None)], ids=["plain", "softmax"])
def test_where_nothing_is_cut_nothing_is_told(tmp_path: Path, friction: Friction | None) -> None:
    result, said = finished(tmp_path, friction)
    assert "edges" not in result
    assert "edges    " not in said
    assert '"edges"' not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert 'id="edges"' not in (tmp_path / "run" / "report.html").read_text()
