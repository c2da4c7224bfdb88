"""benchmarks/adaptation.py on a toy: complete ledgers of one text, and gains that are differences."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
from rich.console import Console

from bytegolf.evaluation.adaptation import DocumentLora, ScoreFirstSgd
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.windows import Chunked, PerDocument
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact
from bytegolf.tree import to_json

TEXTS = ["one and one is two. " * 9, "nothing comes of nothing. " * 7, "short"]


def test_every_way_scores_the_same_text(
    toy_artifact: Artifact, benchmark_script: Callable[[str], ModuleType]
) -> None:
    adaptation = benchmark_script("adaptation")

    loras = [DocumentLora(chunk=16, length=32, learning_rate=rate) for rate in (0.02, 0.01)]
    sgds = [ScoreFirstSgd(chunk=64, length=32, learning_rate=0.05)]
    tried = list(adaptation.ways(32, 8, loras, sgds))
    found = adaptation.record(toy_artifact, TEXTS, tried, Display(Console(quiet=True)))
    assert json.loads(json.dumps(found)) == found
    rows = found["rows"]
    assert [row["plan"] for row in rows] == [
        "sliding 8 of 32",
        "chunked 32",
        "per document, sliding 8 of 32",
        *["per document, chunks of 16 in 32"] * 3,
        "sliding 8 of 32",
    ]
    ledgers = [row["ledger"] for row in rows]
    size = sum(map(len, TEXTS))
    assert {ledger["bytes"] for ledger in ledgers} == {size}
    assert {ledger["targets"] for ledger in ledgers} == {size + len(TEXTS)}
    assert [ledger["released"] > 0 for ledger in ledgers] == [False] * 4 + [True] * 3
    for row in rows:
        assert row["gain_over_sliding"] == rows[0]["bits_per_byte"] - row["bits_per_byte"]
    stream = token_stream(toy_artifact.tokenizer, TEXTS)
    plain = score(toy_artifact.model, toy_artifact.tokenizer, *stream, PerDocument(32, 8))
    learning = score(toy_artifact.model, toy_artifact.tokenizer, *stream, Chunked(32), adaptation=loras[0])
    assert rows[2]["bits_per_byte"] == pytest.approx(plain.bits_per_byte)
    assert rows[4]["bits_per_byte"] == pytest.approx(learning.bits_per_byte)
    assert rows[4]["bits_per_byte"] < rows[3]["bits_per_byte"]
    assert adaptation.table(found).row_count == len(rows)
    del sys.modules["adaptation"]


def test_the_published_settings_and_settings_of_one_s_own(
    toy_artifact: Artifact, benchmark_script: Callable[[str], ModuleType]
) -> None:
    adaptation = benchmark_script("adaptation")
    published = [replace(spec, chunk=16) for spec in adaptation.published(32, len(TEXTS))]
    assert {spec.rank for spec in published} == {80}
    assert [spec.context for spec in published].count("reread") == 1
    chosen = [spec for spec in published if spec.phases is not None or spec.context == "reread"]
    tried = list(adaptation.ways(32, 8, chosen, []))
    found = adaptation.record(toy_artifact, TEXTS, tried, Display(Console(quiet=True)), warm=False)
    assert [row["plan"] for row in found["rows"]][3:] == [
        *["per document, chunks of 16 in blocks of 32"] * 3,
        *["per document, chunks of 16 in 32"] * 2,
    ]
    learned = [row["ledger"]["released"] for row in found["rows"]]
    assert 0 < learned[-1] < learned[4]
    assert "context kept" in adaptation.described(to_json(chosen[0]))
    assert "phases 3/3/text" in adaptation.described(to_json(chosen[0]))
    del sys.modules["adaptation"]
