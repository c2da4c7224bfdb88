"""`bytegolf sweep` as a user meets it: mistakes before anything starts, and a sweep that is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_recipe import tiny

from bytegolf.cli import main

TINY = tiny(steps=200)
SWEEP = ["sweep", "tiny.py", "--seeds", "1", "2", "--folder", "swept", "--device", "cpu"]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return place


def begin(place: Path, *words: str) -> subprocess.Popen[str]:
    """The program in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "bytegolf", *words],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["sweep"], ["RECIPE", "pocket"]),
        (["sweep", "--seeds", "1"], ["RECIPE", "pocket"]),
        (["sweep", "pokcet"], ["did you mean pocket?"]),
        (["sweep", "tiny.py"], ["--seeds 1 2 3"]),
        (["sweep", "tiny.py", "--seeds"], ["--seeds needs one value or more"]),
        (["sweep", "tiny.py", "--seeds", "one"], ["--seeds is 'one'", "whole number"]),
        (["sweep", "tiny.py", "--seeds", "1", "1"], ["--seeds 1 1", "twice"]),
        ([*SWEEP, "--set", "model.widht=8,16"], ["--model.widht is unknown", "did you mean --model.width?"]),
        ([*SWEEP, "--set", "model.width=8,wide"], ["--model.width is 'wide'", "whole number"]),
        ([*SWEEP, "--set", "model.width=16,15"], ["15", "heads", "(tried: --model.width 15)"]),
        ([*SWEEP, "--set", "model.vocabulary=257,300"], ["300", "257 ids"]),
        ([*SWEEP, "--set", "training.validate_at=[0.5],[0.5,x]"], ["[0.5,x]", "no JSON"]),
        ([*SWEEP, "--set", "training.seed=1,2"], ["write --seeds 1 2"]),
        ([*SWEEP, "--set", "model.width=8", "--set", "model.width=16"], ["--set model.width is given twice"]),
        ([*SWEEP, "--set", "model.width=8", "--set=model.width=16"], ["--set model.width is given twice"]),
        ([*SWEEP, "--set"], ["--set needs one value or more"]),
        ([*SWEEP, "--model.widht", "8"], ["did you mean --model.width?"]),
        ([*SWEEP, "--text", "absent.txt"], ["'absent.txt' does not exist"]),
        ([*SWEEP, "--set", "text.sources=text.txt,absent.txt"], ["'absent.txt' does not exist"]),
        ([*SWEEP, "more"], ["'more' is one argument too many"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    here: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in here.iterdir())
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("bytegolf: ")
    assert error.count("\n") == 1, error
    assert [part for part in parts if part not in error] == [], error
    assert sorted(path.name for path in here.iterdir()) == before


def test_help_explains_how_values_are_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "--set 'training.validate_at=[0.5],[0.25,0.5]'" in page
    assert main(["sweep", "tiny.py", "--help"]) == 0
    assert "--training.budget.steps" in capsys.readouterr().out


@pytest.fixture(scope="module")
def stopped(place: Path) -> tuple[int, str, int]:
    """A sweep that gets Ctrl-C, all its processes at once, in its first run: exit code, error, steps done."""
    process = begin(place, *SWEEP)
    metrics = place / "swept" / "default" / "seed-1" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("train") >= 3):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    return process.returncode, error, metrics.read_text().count('"train"')


def test_a_sweep_is_stopped_and_goes_on(
    here: Path, stopped: tuple[int, str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    code, error, steps = stopped
    assert code == 130
    assert error.splitlines()[-1] == "bytegolf: stopped; the same command goes on"
    assert 3 <= steps < 200
    assert not Path("swept/default/seed-2").exists()
    assert main(SWEEP) == 0
    shown = capfd.readouterr().out
    for seed in (1, 2):
        folder = Path(f"swept/default/seed-{seed}")
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [event["step"] for event in events if event["event"] == "train"] == list(range(1, 201))
        assert [event["event"] for event in events].count("resume") == (1 if seed == 1 else 0)
        assert json.loads((folder / "result.json").read_text())["seed"] == seed
        assert not (folder / "data").exists()
    table = shown[shown.index("standard deviation") - 400 :]
    assert "swept/default/seed-1" in table
    assert "swept/default/seed-2" in table
    # All is done: the same command trains nothing, and other settings are not mixed in.
    before = Path("swept/default/seed-1/artifact.bg").stat().st_mtime_ns
    assert main(SWEEP) == 0
    assert "run 1 of 2: swept/default/seed-1 is finished" in capfd.readouterr().out
    assert Path("swept/default/seed-1/artifact.bg").stat().st_mtime_ns == before
    assert main([*SWEEP, "--training.rows", "8"]) == 2
    assert "recipe.training.rows is 4 there and 8 here" in capfd.readouterr().err
    check_an_older_result(Path("swept/default/seed-1"), capfd)


def check_an_older_result(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the refusal of an older result names as the remedy is one."""
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"data": {"vocabulary": 257}}))
    assert main(["compare", str(folder)]) == 2
    assert f"`bytegolf compress {folder}`" in capfd.readouterr().err
    assert main(["compress", str(folder), "--device", "cpu"]) == 0
    assert main(["compare", str(folder), "swept/default/seed-2"]) == 0
    assert json.loads((folder / "result.json").read_text())["data"] == result["data"]


def test_failed_runs_are_told_at_the_end(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # That uncut text is one document, which cannot be split, is only noticed when it is read.
    words = ["sweep", "tiny.py", "--seeds", "1", "--folder", "failing", "--set", "text.cut_bytes=0"]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert "one document" in error.splitlines()[0]
    assert error.splitlines()[-1] == (
        "bytegolf: 1 of 1 runs failed, for the reason above: failing/cut_bytes=0/seed-1; "
        "the same command tries again"
    )
