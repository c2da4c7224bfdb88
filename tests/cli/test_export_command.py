"""`bytegolf export challenge` as a user meets it: help, the table, the limit, and mistakes in one line."""

import json
from pathlib import Path

import pytest
from tiny_recipe import tiny

from bytegolf.cli import main
from bytegolf.submission import folder

TINY = tiny(steps=2)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A place with a finished run, and with one that was stopped before its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "tiny.py", "--folder", "done", "--device", "cpu"]) == 0
    (place / "begun").mkdir()
    (place / "begun" / "recipe.json").write_bytes((place / "done" / "recipe.json").read_bytes())
    return place


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("COLUMNS", "120")
    return trained


def test_the_sizes_are_shown_and_the_folder_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--author",
        "me",
        "--github_id",
        "me-too",
        "--name",
        "Tiny",
        "--blurb",
        "Small.",
        "--track",
        "10min_16mb",
    ]
    assert main(["export", "challenge", "done", *words, "--hardware", "1xH100", "-o", "entry"]) == 0
    shown = capsys.readouterr().out
    data = json.loads((here / "entry" / "submission.json").read_text())
    given = [data[name] for name in ("author", "github_id", "name", "blurb", "track", "hardware")]
    assert given == ["me", "me-too", "Tiny", "Small.", "10min_16mb", "1xH100"]
    assert "entry  try it: python entry/train_gpt.py" in shown
    for name in ("bytes_code", "bytes_model", "bytes_total", "bytes_artifact", "bytes_code_evaluation"):
        assert f"{data[name]:,}" in shown
    assert "counted, of 16,000,000 allowed" in shown


def test_the_folder_of_the_run_is_where_it_goes_by_default(here: Path) -> None:
    assert main(["export", "challenge", "done"]) == 0
    assert (here / "done" / "challenge" / "train_gpt.py").is_file()


def test_too_many_bytes_are_exit_code_1_unless_forced(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder, "LIMIT_BYTES", 1000)
    command = ["export", "challenge", "done", "--out", "large"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("bytegolf: ")
    assert " bytes over the " in error
    assert "--force" in error
    assert error.count("\n") == 1
    assert not (here / "large").exists()
    assert main([*command, "--force"]) == 0
    data = json.loads((here / "large" / "submission.json").read_text())
    assert data["bytes_total"] > data["bytes_limit"] == 1000


@pytest.mark.parametrize(
    "words", [["export", "challenge", "--help"], ["export", "challenge", "done", "--help"]]
)
def test_help_names_every_option(here: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    page = capsys.readouterr().out
    assert "bytegolf export challenge" in page
    for option in ("--out", "--author", "--github-id", "--blurb", "--track", "--also", "--force"):
        assert option in page


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["export"], ["'export' is unknown", "did you mean export challenge?"]),
        (["export", "hub", "done"], ["'export' is unknown", "did you mean export challenge?"]),
        (["export", "challenge"], ["needs RUN", "bytegolf export challenge RUN"]),
        (["export", "challenge", "absent"], ["absent is no run folder", "recipe.json"]),
        (["export", "challenge", "begun"], ["begun is unfinished", "bytegolf train --resume begun"]),
        (["export", "challenge", "done", "--out", "begun"], ["begun exists", "--out FOLDER, or delete it"]),
        (["export", "challenge", "done", "--out", "new", "--also", "begun"], ["begun"]),
        (["export", "challenge", "done", "--out", "new", "--also", "done"], ["named twice"]),
        (["export", "challenge", "done", "--autor", "me"], ["--autor is unknown", "did you mean --author?"]),
        (["export", "challenge", "done", "twice"], ["'twice'", "too many"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    here: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("bytegolf: ")
    assert error.count("\n") == 1
    assert [part for part in parts if part not in error] == []
    assert sorted(here.rglob("*")) == before
