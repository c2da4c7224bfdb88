"""Edges measured in a network, and the lines that training writes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import NETWORK, Clock, changed, finished, network, trainer

from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.training.budget import Budget
from bytegolf.training.edges import edges_as_json, friction_layers, gather_edges


def layer(friction: Friction | None, **changes: Any) -> Block:
    settings = {"heads": 2, "key_value_heads": 1, "rotary": False} | changes
    return Block(Attention(friction=friction, **settings), SquaredMlp(12))


#: A plain layer, two with friction of which one has a window, and one whose softmax cuts nothing.
LAYOUT: Model = replace(
    NETWORK,
    layers=(
        layer(None),
        layer(Friction(head_bias=True)),
        layer(Friction("mu", capacity=None), window=4, heads=4, key_value_heads=2),
        layer(Friction("softmax", capacity=None)),
    ),
)


def text() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of 16 tokens; the second holds documents of 10 and 6."""
    starts = torch.zeros(2, 16, dtype=torch.bool)
    starts[:, 0] = starts[1, 10] = True
    return torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0)), starts


def test_layers_that_cut_edges_are_measured_with_documents_and_windows() -> None:
    model = network(layout=LAYOUT)
    counts = gather_edges(model, *text())
    assert list(counts) == [1, 2]
    assert counts[1].visible == 16 * 17 // 2 + 10 * 11 // 2 + 6 * 7 // 2
    assert counts[2].visible == sum(min(i % n, 4) + 1 for n in (16, 10, 6) for i in range(n))
    assert (len(counts[1].live_H), len(counts[2].live_H)) == (2, 4)
    assert (counts[1].queries, counts[1].pairs) == (32, 512)
    assert [layer.observer for layer in friction_layers(model).values()] == [None, None]


def test_a_learned_bias_decides_what_is_counted() -> None:
    model = network(layout=LAYOUT)
    bias_H = friction_layers(model)[1].bias_H
    assert bias_H is not None
    with torch.no_grad():
        bias_H.copy_(torch.tensor([-100.0, 100.0]))
    assert gather_edges(model, *text())[1].edge_sparsity_H == (1.0, 0.0)


def test_every_pass_of_a_loop_is_counted() -> None:
    layout = replace(LAYOUT, loop=Loop(1, 1, 3))
    model = network(layout=layout)
    counts = gather_edges(model, *text())
    assert (counts[1].queries, counts[2].queries) == (3 * 32, 32)
    with model.stack.running(1):
        assert gather_edges(model, *text())[1].queries == 32


def test_halves_of_differential_heads_are_heads() -> None:
    layout = replace(LAYOUT, layers=(layer(Friction(), differential=0.5),))
    assert len(gather_edges(network(layout=layout), *text())[0].live_H) == 4


def test_what_is_written_is_plain_and_complete() -> None:
    counts = gather_edges(network(layout=LAYOUT), *text())
    line = edges_as_json(counts, rows=2, length=16)
    assert json.loads(json.dumps(line)) == line
    assert line["distances"] == [0, 1, 2, 4, 8, 16]
    first, second = line["layers"]
    assert (first["layer"], second["layer"]) == (1, 2)
    assert first["edge_sparsity"] == list(counts[1].edge_sparsity_H)
    assert list(first["tile_skip"]) == ["64x64", "128x64", "128x128"]
    assert [sum(head) for head in first["edges_by_distance"]] == list(counts[1].live_H)
    live = sum(counts[1].live_H) + sum(counts[2].live_H)
    assert line["overall"]["edges_per_query"] == pytest.approx(live / (2 * 32 + 4 * 32))
    assert line["overall"]["edge_sparsity"] == pytest.approx(
        1 - live / (2 * counts[1].visible + 4 * counts[2].visible)
    )
    assert set(line["overall"]) < set(first)


def edges_of(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "edges"]


def test_training_measures_at_validations_and_at_the_end(tmp_path: Path) -> None:
    clock = Clock()
    toy = trainer(
        changed(budget=Budget(seconds=10.0), validate_at=(0.3, 0.6)),
        tmp_path,
        clock=clock,
        validate=lambda: (1.0, 1.0),
    )

    def measure() -> dict[str, Any]:
        clock.now += 1000.0
        return {"layers": [toy.step]}

    def watch(progress: object) -> None:
        clock.now += 1.0

    toy.edges, toy.watch = measure, watch
    finished(toy)
    assert toy.stopwatch.seconds == 10.0
    assert edges_of(tmp_path) == [
        {"event": "edges", "step": step, "tokens": 64 * step, "seconds": float(step), "layers": [step]}
        for step in (3, 6, 10)
    ]
    assert toy.newest_edges is not None
    assert toy.newest_edges["step"] == 10


def test_a_step_is_measured_once(tmp_path: Path) -> None:
    toy = trainer(
        changed(budget=Budget(steps=2), validate_at=(0.5, 0.9)), tmp_path, validate=lambda: (1.0, 1.0)
    )
    toy.edges = lambda: {"layers": []}
    finished(toy)
    assert [line["step"] for line in edges_of(tmp_path)] == [1, 2]
