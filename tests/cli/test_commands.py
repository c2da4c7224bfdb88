"""The program as a user meets it: exit codes, one line for a mistake, and whole runs of a tiny model."""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bytegolf.cli import main

TINY = '''
"""A model that trains in seconds."""
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.compression.grid import Grid
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
RECIPE = Recipe(
    name="tiny",
    text=Text(sources=("text.txt",), cut_bytes=400, held_out=0.2),
    tokens=Bytes(),
    model=Model(width=16, layers=(LAYER,) * 2),
    training=Training(Budget(steps=6), rows=4, length=32, precision="float32", checkpoint_seconds=0.01),
    compression=Compression(FixedBits(Grid(6))),
    evaluation=Evaluation(plans=(Chunked(32),), sample_tokens=5, coloured_bytes=200),
)
'''
PROGRAM = [sys.executable, "-m", "bytegolf"]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A finished run of the tiny recipe."""
    words = ["train", "tiny.py", "--folder", "done", "--model.layers.*.mixer.window", "9"]
    shown = io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(shown):
        assert main(words) == 0
    assert "bits/byte" in shown.getvalue()
    assert "done/report.html" in shown.getvalue()
    return place / "done"


def bytegolf(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [*PROGRAM, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def assert_one_line(error: str, *parts: str) -> None:
    assert error.startswith("bytegolf: ")
    assert error.count("\n") == 1, error
    assert error.endswith("\n")
    assert [part for part in parts if part not in error] == [], error


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["train", "--help"], ["generate", "--help"]])
def test_help_and_recipes_leave_the_slow_imports_alone(words: list[str]) -> None:
    # Without them both take a quarter of a second; torch alone takes seconds.
    slow = ["torch", "matplotlib", "sentencepiece"]
    code = (
        f"import sys; from bytegolf.cli import main; main({words!r}); print(set({slow!r}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_recipe_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "pocket" in listed
    assert "A model of your own text in a megabyte" in listed
    assert "baseline" in listed


def test_help_names_every_command_and_a_recipe_s_help_every_setting(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    top = capsys.readouterr().out
    for command in ("train", "compress", "evaluate", "generate", "show", "recipes", "doctor", "report"):
        assert f" {command} " in top
    assert main(["train", "tiny.py", "--help"]) == 0
    page = capsys.readouterr().out
    for setting in ("--model.layers.0.mixer.window", "--training.budget.steps", "--text.sources", "--resume"):
        assert setting in page
    assert "The 2 layers are alike" in page


@pytest.mark.parametrize("name", ["nine_hyperparameters", "looped_noisy"])
def test_alike_layers_are_shown_once_where_a_loop_needs_all(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", name, "--help"]) == 0
    page = capsys.readouterr().out
    assert "--model.layers.0.mixer.heads" in page
    assert "--model.layers.1." not in page
    assert "--model.loop.last" in page
    assert "layers are alike" in page


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'trian'", "did you mean train?"]),
        (["zzz"], ["'zzz'", "train, compress"]),
        (["train"], ["RECIPE", "pocket"]),
        (["train", "--text", "kjv"], ["RECIPE", "pocket"]),
        (["train", "pokcet"], ["'pokcet'", "did you mean pocket?"]),
        (["train", "xyz"], ["'xyz'", "baseline, ", ", pocket, ", ".py"]),
        (["train", "absent.py"], ["absent.py", "does not exist"]),
        (["train", "broken.py"], ["broken.py", "ZeroDivisionError"]),
        (["train", "empty.py"], ["empty.py", "RECIPE"]),
        (["train", "wrong.json"], ["wrong.json", "Recipe"]),
        (["train", "tiny.py", "--model.widht", "9"], ["--model.widht", "did you mean --model.width?"]),
        (["train", "tiny.py", "--model.width", "nine"], ["--model.width", "'nine'", "whole number"]),
        (["train", "tiny.py", "--model.width", "15"], ["15", "heads"]),
        (["train", "tiny.py", "--training.budget.tokens", "5"], ["budget.tokens=5", "too small"]),
        (["train", "tiny.py", "--text", "absent.txt"], ["'absent.txt'", "does not exist"]),
        (["train", "tiny.py", "--text", "nothing.txt"], ["nothing.txt", "empty"]),
        (["train", "tiny.py", "--text", "latin.txt"], ["latin.txt", "UTF-8"]),
        (["train", "tiny.py", "--text.cut_bytes", "0"], ["one document", "cut_bytes"]),
        (["train", "tiny.py", "--model.vocabulary", "300"], ["300", "257"]),
        (["train", "tiny.py", "--folder", "text.txt/x"], ["text.txt"]),
        (["train", "tiny.py", "extra"], ["'extra'", "too many"]),
        (["train", "--resume", "absent"], ["absent", "no run folder"]),
        (["train", "tiny.py", "--resume", "x"], ["leave out 'tiny.py'"]),
        (["compress"], ["FOLDER"]),
        (["compress", "absent"], ["absent", "no run folder"]),
        (["evaluate"], ["ARTIFACT"]),
        (["evaluate", "absent.bg", "--text", "text.txt"], ["absent.bg"]),
        (["generate"], ["ARTIFACT", "[PROMPT]"]),
        (["generate", "text.txt"], ["text.txt"]),
        (["generate", "a", "b", "c"], ["'c'", "too many"]),
        (["generate", "a", "--tokens", "many"], ["--tokens", "'many'"]),
        (["generate", "a", "--token", "9"], ["--token is unknown", "did you mean --tokens?"]),
        (["generate", "a", "--device", "tpu"], ["--device", "'tpu'", "cuda"]),
        (["show"], ["RECIPE"]),
        (["show", "tiny.py", "--tokens_per_second", "0"], ["tokens_per_second=0"]),
        (["show", "tiny.py", "--svg", "x.txt"], ["'x.txt'", ".svg"]),
        (["recipes", "all"], ["'all'", "too many"]),
        (["doctor", "--jsn"], ["--jsn", "did you mean --json?"]),
        (["report", "absent"], ["absent"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    here: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text("1 / 0")
    (here / "empty.py").write_text("")
    (here / "wrong.json").write_text("[]")
    (here / "nothing.txt").write_text("")
    (here / "latin.txt").write_bytes(b"caf\xe9 " * 300)
    before = sorted(path.name for path in here.rglob("*"))
    assert main(words) == 2
    assert_one_line(capsys.readouterr().err, *parts)
    assert sorted(path.name for path in here.rglob("*")) == before


def test_the_program_itself_ends_with_that_code(place: Path) -> None:
    done = bytegolf(place, "trian", "tiny.py")
    assert done.returncode == 2
    assert_one_line(done.stderr, "did you mean train?")


def test_a_run_leaves_a_folder_that_describes_itself(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"recipe.json", "environment.json", "metrics.jsonl", "checkpoint", "artifact.bg"} <= names
    assert {"result.json", "report.html"} <= names
    recipe = json.loads((trained / "recipe.json").read_text())
    assert [layer["mixer"]["window"] for layer in recipe["model"]["layers"]] == [9, 9]


def test_a_finished_folder_is_not_trained_over(
    here: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "recipe.json").read_bytes()
    assert main(["train", "tiny.py", "--folder", "done"]) == 2
    assert_one_line(capsys.readouterr().err, "already holds a run", "--resume")
    assert (trained / "recipe.json").read_bytes() == before


def test_an_artifact_is_scored_on_other_text(
    here: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "done/artifact.bg", "--text", "tiny.py", "--json"]
    assert main([*words, "--plans.0.length", "20"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["plan"] == "chunked 20"
    assert row["bytes"] == len(TINY.encode())
    assert main([*words, "--plans", "Chunked", "PerDocument"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["evaluate", "done/artifact.bg"]) == 2
    assert_one_line(capsys.readouterr().err, "--text")


def test_generated_bytes_reach_standard_output_as_they_are(place: Path, trained: Path) -> None:
    words = [*PROGRAM, "generate", "done/artifact.bg", "squares", "--tokens", "40"]
    words += ["--stop_at_document_end", "false", "--temperature", "2"]
    first = subprocess.run(words, cwd=place, capture_output=True, check=True).stdout
    assert len(first) == 40
    # Again, telling what was imported: torch takes two seconds, its compiler and what draws as much again.
    slow = {"torch._dynamo", "sympy", "matplotlib"}
    code = "import sys; from bytegolf.cli import main; main(); "
    code += f"print({slow} & set(sys.modules), file=sys.stderr)"
    words = [sys.executable, "-c", code, *words[len(PROGRAM) :]]
    again = subprocess.run(words, cwd=place, capture_output=True, check=True)
    assert again.stdout == first
    assert again.stderr.split() == [b"set()"]


def test_a_run_is_compressed_again_with_other_grids(
    here: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "artifact.bg").stat().st_size
    assert main(["compress", "done", "--compression.plan.grid.bits", "3"]) == 0
    assert (trained / "artifact.bg").stat().st_size < before
    capsys.readouterr()
    assert main(["compress", "done", "--model.width", "32"]) == 2
    assert_one_line(capsys.readouterr().err, "only settings below compression")


def test_the_report_is_written_again(here: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "report.html").unlink()
    assert main(["report", "done"]) == 0
    assert capsys.readouterr().out.strip() == "done/report.html"
    assert (trained / "report.html").exists()


@pytest.fixture
def interrupted(place: Path) -> tuple[int, str, Path]:
    """A run that got Ctrl-C after its first steps: exit code, standard error, folder."""
    folder = place / "stopped"
    process = subprocess.Popen(
        [*PROGRAM, "train", "tiny.py", "--folder", "stopped", "--training.budget.steps", "300"],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    metrics = folder / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("train") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    return process.returncode, error, folder


def test_ctrl_c_saves_and_says_how_to_continue(interrupted: tuple[int, str, Path]) -> None:
    code, error, folder = interrupted
    assert code == 130
    assert_one_line(error, "continue with: bytegolf train --resume stopped")
    assert any((folder / "checkpoint").iterdir())
    with contextlib.chdir(folder.parent):
        assert main(["train", "--resume", "stopped"]) == 0
    steps = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["event"] == "train"] == list(range(1, 301))
    assert [row["event"] for row in steps].count("resume") == 1


def test_a_disk_that_takes_no_more_ends_in_one_line_and_leaves_nothing_half_written(place: Path) -> None:
    # A limit on file sizes stands in for a full disk: the checkpoint does not fit, the metrics do.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = bytegolf(place, "train", "tiny.py", "--folder", "full", preexec_fn=limit)
    assert done.returncode == 2
    assert_one_line(done.stderr, "File too large", "another disk")
    left = [path for path in (place / "full").rglob("*") if path.is_file()]
    assert [path.name for path in left if path.name.startswith(".") or path.suffix == ".pt"] == []


def test_output_that_nobody_reads_any_more_is_no_error(place: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "recipes"], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert error == b""
