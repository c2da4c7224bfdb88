"""benchmarks/friction_memory.py: both bodies, attention alone and the whole network, at every length."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bytegolf.model.friction import FrictionLayer


def test_every_body_is_measured_at_every_length(
    benchmark_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, out = benchmark_script("friction_memory"), tmp_path / "out.json"
    networks, forward = [], script.forward
    monkeypatch.setattr(
        script, "forward", lambda model, tokens: networks.append(model) or forward(model, tokens)
    )
    shape = ["--layers", "2", "--heads", "2", "--width", "32", "--vocabulary", "300"]
    script.main([*shape, "--tokens", "16", "24", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["shape"] == {"layers": 2, "heads": 2, "width": 32, "vocabulary": 300}
    assert [(row["body"], row["what"], row["tokens"]) for row in record["rows"]] == list(
        itertools.product(("friction", "softmax"), ("attention", "forward"), (16, 24))
    )
    frictions = [sum(isinstance(part, FrictionLayer) for part in model.modules()) for model in networks]
    assert frictions == [2, 2, 0, 0]
    weights = 2 * sum(parameter.numel() for parameter in networks[0].parameters())
    assert record["rows"][2]["weights_gigabytes"] == pytest.approx(weights / 1e9)
