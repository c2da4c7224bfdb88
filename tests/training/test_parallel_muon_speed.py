"""The script that times parallel Muon: what it counts as overlap, and a toy run on two processes."""

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import launch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "parallel_muon.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("parallel_muon", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def event(name: str, category: str, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": duration}


def test_kernels_of_nccl_are_set_against_the_others(script: ModuleType) -> None:
    events = [
        event("ncclDevKernel_ReduceScatter", "kernel", 1000, 4000),
        event("ncclDevKernel_AllGather", "kernel", 9000, 2000),
        event("gemm", "kernel", 3000, 1000),
        event("gemm", "kernel", 3500, 1000),
        event("elementwise", "kernel", 10_500, 3000),
        # What the processor did meanwhile is no computation of the GPU.
        event("aten::mm", "cpu_op", 0, 20_000),
        {"ph": "M", "name": "process_name"},
    ]
    assert script.overlap(events) == {
        "communication_ms": 6.0,
        "computation_ms": 4.5,
        "overlap_ms": 2.0,
        "exposed_ms": 4.0,
    }


def test_without_a_gpu_operators_are_set_against_messages(script: ModuleType) -> None:
    events = [
        event("gloo:all_gather", "user_annotation", 0, 3000),
        event("aten::mm", "cpu_op", 2000, 5000),
        event("aten::add", "cpu_op", 2500, 100),
        event("c10d::allgather_", "cpu_op", 0, 9000),
    ]
    assert script.overlap(events)["overlap_ms"] == 1.0
    assert script.overlap(events)["computation_ms"] == 5.0


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))))


@given(a=spans, b=spans)
def test_intervals_are_sets_of_moments(
    script: ModuleType, a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    def moments(intervals: list[tuple[int, int]]) -> set[int]:
        return {moment for start, end in intervals for moment in range(start, end)}

    both = script.common(script.merged(a), script.merged(b))
    assert moments(script.merged(a)) == moments(a)
    assert moments(both) == moments(a) & moments(b)
    assert script.length(both) == pytest.approx(len(moments(a) & moments(b)) / 1000)


def test_a_toy_run_on_two_processes(tmp_path: Path) -> None:
    toy = {
        "model.width": "48",
        "training.rows": "4",
        "training.forward_rows": "1",
        "training.length": "16",
    }
    changes = [part for path, value in toy.items() for part in (f"--{path}", value)]
    options = ("--device", "cpu", "--vocabulary", "64", "--steps", "1", "--warm-up", "1")
    launch(SCRIPT, "pocket", "--out", tmp_path, *options, *changes)
    result = json.loads((tmp_path / "parallel_muon.json").read_text())
    assert (result["processes"], result["rows"], result["length"]) == (2, 4, 16)
    assert result["alone"]["tokens_per_second"] > 0
    for form in ("plain", "sharded"):
        found = result[form]
        expected = found["tokens_per_second"] / result["alone"]["tokens_per_second"]
        assert found["times_alone"] == pytest.approx(expected)
        assert found["step_seconds"] == pytest.approx(4 * 16 / found["tokens_per_second"])
        assert 0 < found["communication_ms"] == pytest.approx(found["overlap_ms"] + found["exposed_ms"])
        assert found["overlap_ms"] <= found["computation_ms"]
        with gzip.open(tmp_path / f"{form}.trace.json.gz", "rt", encoding="utf-8") as file:
            assert any(event.get("name", "").startswith("gloo:") for event in json.load(file)["traceEvents"])
