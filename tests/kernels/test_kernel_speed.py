"""benchmarks/kernel_speed.py on a toy: every kernel is checked and timed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_every_kernel_is_checked_and_timed(
    benchmark_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "speed.json"
    sizes = {"tokens": 96, "width": 16, "vocabulary": 40, "hidden": 48, "repeats": 2, "out": out}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["kernel_speed.py", *words])
    benchmark_script("kernel_speed").main()
    result = json.loads(out.read_text())
    assert result["environment"]["date"]
    rows = result["rows"]
    assert {row["kernel"] for row in rows} == {"capped_loss", "activated_projection", "orthogonal"}
    for row in rows:
        assert row["forward_ms"] > 0
        if "error" in row:
            # Newton-Schulz runs in 16 bits on a GPU.
            assert row["error"] < (0.1 if row["kernel"] == "orthogonal" else 2e-2)
            assert all(error < 2e-2 for error in row.get("gradient_errors", []))
        if "floor_ms" in row:
            assert row["both_ms"] > 0
