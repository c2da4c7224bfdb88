"""The edges of friction layers on some text, measured in the one forward pass.

Shapes: B rows, T tokens, H query heads.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bytegolf.kernels.friction.statistics import EdgeCounts, count_edges, distance_bounds
from bytegolf.model.friction import EdgeObserver, FrictionLayer
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Stream


def friction_layers(model: LanguageModel) -> dict[int, FrictionLayer]:
    """Layers in which edges are cut, by their number; under a softmax none is."""
    found = {}
    for number, block in enumerate(model.stack.blocks):
        for module in block.modules():
            if isinstance(module, FrictionLayer) and module.rule is not None:
                found[number] = module
    return found


@torch.no_grad()
def gather_edges(model: LanguageModel, ids_BT: Tensor, starts_BT: Tensor) -> dict[int, EdgeCounts]:
    """What each friction layer leaves of the edges of these rows, in all of its passes, by its number.

    ids_BT: int64, on the model's device. starts_BT: bool, where documents begin; best left on the CPU (see
    `Stream.of`). A loop runs as often as the model now has it.
    """
    counts: dict[int, EdgeCounts] = {}
    with model.as_written(), _observed(friction_layers(model), counts):
        model.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
    return counts


@contextmanager
def _observed(layers: Mapping[int, FrictionLayer], counts: dict[int, EdgeCounts]) -> Iterator[None]:
    try:
        for number, layer in layers.items():
            layer.observer = _counter(number, layer, counts)
        yield
    finally:
        for layer in layers.values():
            layer.observer = None


def _counter(number: int, layer: FrictionLayer, counts: dict[int, EdgeCounts]) -> EdgeObserver:
    """Adds every pass of a layer to its counts."""
    rule = layer.rule
    assert rule is not None

    def count(q_BTHK: Tensor, k_BTGK: Tensor, stream: Stream, window: int | None) -> None:
        found = count_edges(
            q_BTHK,
            k_BTGK,
            rule=rule,
            bias_H=layer.bias_H,
            friction_H=layer.friction_H,
            document_BT=stream.document_BT,
            window=window,
        )
        counts[number] = counts[number] + found if number in counts else found

    return count


def edges_as_json(counts: Mapping[int, EdgeCounts], *, rows: int, length: int) -> dict[str, Any]:
    """What metrics.jsonl says of the edges of `rows` rows of `length` tokens: of each layer a list by head.

    `overall` is of the edges of all heads and layers, each of which counts once.
    """
    all_heads = [found.over_heads() for found in counts.values()]
    whole = sum(all_heads[1:], start=all_heads[0])
    layers = []
    for number, found in counts.items():
        sizes = {"queries": found.queries, "pairs": found.pairs, "visible": found.visible}
        by_distance = {"edges_by_distance": [list(live_N) for live_N in found.live_HN]}
        layers.append({"layer": number, **sizes, **_shares(found), **by_distance})
    overall = {
        name: {size: share[0] for size, share in value.items()} if isinstance(value, dict) else value[0]
        for name, value in _shares(whole).items()
    }
    return {
        "rows": rows,
        "length": length,
        "distances": list(distance_bounds(length)),
        "overall": overall,
        "layers": layers,
    }


def _shares(found: EdgeCounts) -> dict[str, Any]:
    """Every measure, as a list by head."""
    return {
        "edge_sparsity": list(found.edge_sparsity_H),
        "square_sparsity": list(found.square_sparsity_H),
        "edges_per_query": list(found.edges_per_query_H),
        "row_sum": list(found.row_sum_H),
        "largest_row_sum": list(found.largest_H),
        "capped": list(found.capped_share_H),
        "tile_skip": {f"{tile.queries}x{tile.keys}": list(tile.skip_H) for tile in found.tiles},
    }
