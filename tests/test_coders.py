"""The comparison of coders reads any artifact and leaves a record whose sums agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bytegolf.artifact.container import Contents, write_artifact
from bytegolf.compression.grid import Grid

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("storage", ["stored", "ternary"])
def test_the_coders_of_an_artifact_are_recorded(tmp_path: Path, storage: str) -> None:
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    tensors = {"a": Grid(6).quantize(weight), "b": Grid(5).quantize(weight.T), "vector": torch.ones(3)}
    roles = {"a": "embedding", "b": "head", "vector": "scalar"}
    write_artifact(tmp_path / "model.bg", Contents({}, b"", tensors, roles, {}))
    command = [sys.executable, "benchmarks/coders.py", str(tmp_path / "model.bg")]
    command += ["--storage", storage, "--out", str(tmp_path / "coders.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "coders.json").read_text())
    assert record["integers"] == 2 * 40 * 24
    assert [row["role"] for row in record["roles"]] == ["embedding", "head"]
    choice = record["coders"]["the artifact's choice"]["bytes"]
    assert choice == sum(row["coders"]["the artifact's choice"]["bytes"] for row in record["roles"])
    assert choice <= record["coders"]["context model"]["bytes"] + 2 * len(record["roles"])
    assert "| the artifact's choice |" in done.stdout
