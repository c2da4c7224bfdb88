"""What a run says of its edges: measured on held-out text, in a line for the display and in result.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.report.run_folder import read_run
from bytegolf.tokens.shards import Prepared
from bytegolf.training.edges import edges_as_json, friction_layers, gather_edges

#: What is looked at, at most. Two CPU cores take 20 million pairs a second, an H100 over 5 billion.
_ROWS = 8
_TOKENS = {"cpu": 2_048, "cuda": 16_384}


def edge_measurement(
    model: LanguageModel, recipe: Recipe, prepared: Prepared
) -> Callable[[], dict[str, Any]] | None:
    """Measures the model's edges as it then is, on the first held-out rows; None if it cuts no edges."""
    if not friction_layers(model):
        return None
    store = prepared.validation
    length = min(recipe.training.length, store.tokens)
    rows = min(max(1, min(_ROWS, _TOKENS[model.device.type] // length)), store.tokens // length)
    ids = store.read(0, rows * length).astype(np.int64)
    ids_BT = torch.from_numpy(ids).view(rows, length)
    starts_BT = ids_BT == prepared.tokenizer.bos

    def measure() -> dict[str, Any]:
        return edges_as_json(
            gather_edges(model, ids_BT.to(model.device), starts_BT), rows=rows, length=length
        )

    return measure


def newest_edges(folder: Path) -> dict[str, Any] | None:
    """The last measurement that a run's metrics hold; None if there is none."""
    found = read_run(folder).events("edges")
    return {key: value for key, value in found[-1].items() if key != "event"} if found else None


def edges_in_words(edges: Mapping[str, Any]) -> str:
    """The whole network's measurement in a line."""
    overall = edges["overall"]
    cut, queries = 100.0 * overall["edge_sparsity"], overall["edges_per_query"]
    empty = 100.0 * overall["tile_skip"]["128x64"]
    return f"{cut:.2f} % of visible ones cut, {queries:.1f} a query, {empty:.0f} % of 128 x 64 tiles empty"
