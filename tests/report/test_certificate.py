"""The certificate in the report: its verdicts, whether it is about this run, and how to get one."""

import json
from pathlib import Path
from typing import Any

import pytest

from bytegolf.report.page import write_report

HINT = "bytegolf prove artifact.bg"


def certificate(artifact: str = "9f" * 32) -> dict[str, Any]:
    verdicts = [
        {"condition": "causality", "outcome": "pass", "numbers": {}, "sentence": "72 places <changed>."},
        {"condition": "size", "outcome": "fail", "numbers": {}, "sentence": "12 bytes over."},
        {"condition": "split", "outcome": "not checked", "numbers": {}, "sentence": "No manifest."},
    ]
    return {
        "format": 1,
        "outcome": "fail",
        "date": "2026-11-22T09:00:00+00:00",
        "bound_to": {"artifact_sha256": artifact, "text_sha256": "7a" * 32},
        "score": {"bits_per_byte": 1.38214, "bytes": 350_112, "plan": "sliding 128 of 256"},
        "verdicts": verdicts,
    }


def page(folder: Path, data: Any = None) -> str:
    if data is not None:
        (folder / "certificate.json").write_text(json.dumps(data))
    return write_report(folder).read_text(encoding="utf-8")


def test_every_verdict_is_shown_with_what_was_found(undrawn_folder: Path) -> None:
    shown = page(undrawn_folder, certificate())
    for part in (
        'id="proof"',
        "72 places &lt;changed&gt;.",
        'class="verdict pass"',
        'class="verdict fail">fail',
        'class="verdict unchecked">not checked',
        "1.3821 bits per byte of 350,112, sliding 128 of 256",
        "22 November 2026, 09:00",
        "7a" * 32,
    ):
        assert part in shown, part
    assert "another artifact" not in shown
    assert HINT not in shown


def test_a_certificate_of_another_artifact_is_said_to_be_one(undrawn_folder: Path) -> None:
    assert "about another artifact" in page(undrawn_folder, certificate("00" * 32))


def test_without_a_certificate_the_page_says_how_to_get_one(undrawn_folder: Path) -> None:
    shown = page(undrawn_folder)
    assert 'id="proof"' not in shown
    assert shown.count(HINT) == 1


@pytest.mark.parametrize("data", [[], 3, {"verdicts": 4}, {"verdicts": [1, "two"], "score": []}])
def test_a_certificate_of_another_shape_leaves_the_page_whole(undrawn_folder: Path, data: Any) -> None:
    shown = page(undrawn_folder, data)
    assert 'id="proof"' not in shown
    assert shown.rstrip().endswith("</html>")


def test_a_hostile_verdict_is_text(undrawn_folder: Path) -> None:
    hostile = {"verdicts": [{"outcome": ["<script>"], "sentence": "<script>"}], "bound_to": "x"}
    shown = page(undrawn_folder, hostile)
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
