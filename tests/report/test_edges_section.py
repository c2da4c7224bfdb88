"""What the report says of the edges of friction attention."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bytegolf.kernels.friction.statistics import EdgeCounts, TileCounts
from bytegolf.report.page import write_report
from bytegolf.training.edges import edges_as_json


def counts(live: int) -> EdgeCounts:
    """Two heads on 256 tokens, of which the second has twice the edges, a fifth of them beyond 32 tokens."""
    by_distance = (3 * live, 2 * live, 2 * live, 0, 0, live, 0, 2 * live, 0, 0)
    tiles = tuple(TileCounts(*size, 10, (5, 1)) for size in ((64, 64), (128, 64), (128, 128)))
    heads = (by_distance, tuple(2 * number for number in by_distance))
    return EdgeCounts(256, 65_536, 32_896, heads, (64, 128), (256.0, 512.0), (3.0, 4.5), tiles)


def line(step: int, live: int) -> dict[str, Any]:
    measured = edges_as_json({0: counts(live), 2: counts(2 * live)}, rows=1, length=256)
    return {"event": "edges", "step": step, "tokens": 8192 * step, "seconds": step / 2, **measured}


def section(folder: Path, *lines: Any) -> str:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in lines)
    page = write_report(folder).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    found = re.search(r'<section id="edges".*?</section>', page, re.DOTALL)
    return found.group() if found else ""


def test_the_three_measures_stand_apart(run_folder: Path) -> None:
    shown = section(run_folder, line(400, 10))
    # Of 32,896 visible edges the heads keep 100, 200, 200 and 400.
    assert "99.32\N{NARROW NO-BREAK SPACE}% of visible edges" in shown
    assert "99.66\N{NARROW NO-BREAK SPACE}% of all T × T pairs" in shown
    assert "30.00\N{NARROW NO-BREAK SPACE}% of 128 × 64" in shown
    assert "<dd>0.88</dd>" in shown
    titles = re.findall(r'aria-label="([^"]+) by layer"', shown)
    assert titles == [
        "Edge sparsity (% of visible edges)",
        "Edges per query",
        "Empty tiles (% of visible tiles)",
    ]
    cells = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", shown)
    assert len(cells) == 2
    assert "20.0\N{NARROW NO-BREAK SPACE}%" in cells[0]


def test_several_measurements_make_curves_and_the_last_one_the_rest(run_folder: Path) -> None:
    assert section(run_folder, line(200, 40)).count("<svg") == 4
    shown = section(run_folder, line(400, 20))
    assert shown.count("<svg") == 7
    assert section(run_folder, line(400, 20)) == shown
    assert "98.63\N{NARROW NO-BREAK SPACE}% of visible edges" in shown


def test_a_run_without_friction_has_no_such_section(run_folder: Path) -> None:
    assert section(run_folder) == ""


@pytest.mark.parametrize(
    "broken",
    [
        {"layers": [{}]},
        {"layers": [{"layer": "x", "edge_sparsity": 7, "edges_by_distance": [3, [1]], "queries": 0}]},
        {"layers": [{"layer": 1, "edge_sparsity": [None, "a", float("nan")]}], "distances": "far"},
        {"layers": 3, "overall": []},
        {"step": [1], "layers": [{}], "overall": {"tile_skip": [], "edge_sparsity": "<b>"}},
    ],
)
def test_lines_of_another_shape_still_make_a_page(tmp_path: Path, broken: dict[str, Any]) -> None:
    section(tmp_path, {"event": "edges", **broken})
    section(tmp_path, line(400, 10), {"event": "edges", "step": 401, **broken})
