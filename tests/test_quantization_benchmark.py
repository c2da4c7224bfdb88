"""benchmarks/quantization.py on a toy: one training, a file for each grid, and costs that are differences."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from bytegolf.compression.stages import SeenGrids
from bytegolf.evaluation.bits import token_stream
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import ByteTokenizer


@pytest.fixture
def quantization(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("quantization")


def test_a_network_that_saw_no_grid_is_trained_once_and_stored_on_each(
    quantization: Any, tmp_path: Path
) -> None:
    from toy_recipes import small

    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    case = quantization.CASES["looped"]
    recipe = small(quantization.recipe_of(case, quantization.LARGEST["8"], 100_000))
    compression = replace(recipe.compression, passthrough_elements=64)
    texts = Text(sources=(str(text),), cut_bytes=2000)
    recipe = replace(recipe, text=texts, tokens=Bytes(), compression=compression)
    recipe = replace(recipe, training=replace(recipe.training, seed=3))
    folder = tmp_path / "runs" / "looped-seed3"
    rows = quantization.study(case, recipe, folder, Console(quiet=True))
    assert [row["storage"] for row in rows] == ["8", "6", "5", "4"]
    assert len({row["float"] for row in rows}) == 1
    assert len({row["file"] for row in rows}) == 4
    assert rows[0]["bytes"] > rows[1]["bytes"] > rows[2]["bytes"] > rows[3]["bytes"]
    assert all(row["cost"] == row["file"] - row["float"] for row in rows)
    assert abs(rows[0]["cost"]) < abs(rows[3]["cost"])
    # Three layers, three passes.
    assert [len(row["deviations"]) for row in rows] == [9] * 4
    for finer, coarser in itertools.pairwise(rows):
        assert all(0 < a < b < 1 for a, b in zip(finer["deviations"], coarser["deviations"], strict=True))
    assert list(quantization.collected(tmp_path / "runs")) == [{**row, "seed": 3} for row in rows]
    assert json.loads((folder / "rows.json").read_text())["rows"] == rows
    assert quantization.table(rows).row_count == 4


def test_cases_see_the_grid_that_they_are_stored_on(quantization: Any) -> None:
    for case in quantization.CASES.values():
        for storage in case.storages.values():
            recipe = small_network(quantization.recipe_of(case, storage, 100_000))
            stages = SeenGrids(
                recipe.model.build(), recipe.compression, recipe.compression.plan.grids, seed=1
            )
            names = [stage.name for stage in stages.stages]
            expected = {"": [], "rounded": ["quantization-aware training"], "noisy": ["noisy training"]}
            assert names == expected[case.sees]
            assert recipe.compression.plan.grids()["mlp_up"] == storage


def small_network(recipe: Any) -> Any:
    from toy_recipes import small

    return small(recipe).with_vocabulary(ByteTokenizer().vocabulary)


def test_a_network_strays_from_the_layer_on_that_was_changed(quantization: Any) -> None:
    import error_growth

    recipe = small_network(
        quantization.recipe_of(quantization.CASES["looped"], quantization.LARGEST["8"], 100_000)
    )
    torch.manual_seed(0)
    model = recipe.model.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids, starts = token_stream(ByteTokenizer(), ["what is here, " * 9, "and there"])
    shards = [ids[:70].astype(np.uint16), ids[70:-1].astype(np.uint16)]
    store = TokenStore(shards, bos=int(ids[0]), text_bytes=135)
    assert list(store.starts) == list(starts)
    ids_BT, starts_BT = error_growth.rows_of(store, 32)
    assert ids_BT.shape == (4, 32)
    assert starts_BT.flatten().nonzero().flatten().tolist() == [0, 127]
    assert error_growth.deviations(model, model, ids_BT, starts_BT) == [0.0] * 9
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.stack.layers[1].mlp.down.weight.mul_(1.5)
    found = error_growth.deviations(model, other, ids_BT, starts_BT)
    # Layers 0 1 2 0 1 2 0 1 2.
    assert found[0] == 0.0
    assert all(deviation > 1e-3 for deviation in found[1:])
