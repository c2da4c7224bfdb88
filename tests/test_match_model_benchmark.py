"""The script that fits a match model's weights."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bytegolf.evaluation.adaptation import MatchModel
from bytegolf.evaluation.adaptation.match_model import WEIGHTS
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.windows import PerDocument
from bytegolf.serving.artifact import Artifact

TEXTS = [
    "the cat sat on the mat. " * 12,
    "a dog did, too, and the cat sat. " * 9,
    "abcabc",
    "over and over. " * 9,
]


@pytest.mark.parametrize("learner", [None, '{"type": "DocumentLora", "rank": 2, "chunk": 8, "length": 32}'])
def test_what_it_promises_is_what_an_evaluation_gives(
    toy_artifact: Artifact,
    benchmark_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    learner: str | None,
) -> None:
    script = benchmark_script("match_model")
    monkeypatch.setattr(script, "open_artifact", lambda path, device: toy_artifact)
    paths = [tmp_path / f"{number}.txt" for number in range(len(TEXTS))]
    for path, text in zip(paths, TEXTS, strict=True):
        path.write_text(text)
    out = tmp_path / "record.json"
    words = ["artifact.bg", *map(str, paths[:3]), "--held-out", str(paths[3]), "--out", str(out)]
    script.main(words if learner is None else [*words, "--learner", learner])
    record = json.loads(out.read_text())
    fitted, held_out = record["rows"]
    # No weights are better on the text that these were fitted to; three places cost next to nothing.
    assert fitted["gain_fitted"] > fitted["gain_default"] > 0
    for row, texts in ((fitted, TEXTS[:3]), (held_out, TEXTS[3:])):
        ids, starts = token_stream(toy_artifact.tokenizer, texts)
        pairs = (WEIGHTS, row["gain_default"]), (record["weights"], row["gain_fitted"])
        for weights, gain in pairs:
            spec = MatchModel(script.learner_of(learner), tuple(weights))
            found = score(
                toy_artifact.model, toy_artifact.tokenizer, ids, starts, PerDocument(32, 8), adaptation=spec
            )
            assert row["without"] - gain == pytest.approx(found.bits_per_byte, abs=1e-6)
