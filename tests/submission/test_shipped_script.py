"""`train_gpt.py` where bytegolf is not installed: it scores and trains with the modules it carries."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bytegolf.artifact.container import read_artifact, write_artifact
from bytegolf.artifact.source import files, script
from bytegolf.errors import ArtifactError, ShardError
from bytegolf.submission import launcher
from bytegolf.submission.evaluation import evaluate
from bytegolf.submission.training import saved_recipe
from bytegolf.tokens.spec import TokenizerFile
from bytegolf.tree import from_json, to_json

#: Lets `bytegolf` be found in the first folder of the path only, where a script puts what it unpacks.
BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Unpacked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "bytegolf":
            spec = PathFinder.find_spec(name, sys.path[:1])
            if spec is None:
                raise ModuleNotFoundError("bytegolf is not installed", name=name)
            return spec

sys.meta_path.insert(0, Unpacked)
"""

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def elsewhere(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Runs Python in the submission's folder, in an environment without bytegolf."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "sitecustomize.py").write_text(BLOCKER)

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=shipped,
            env={**os.environ, "PYTHONPATH": str(blocked), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return start


def scores(output: str) -> dict[str, str]:
    """The printed bits per byte by plan."""
    return {plan: bits for bits, plan in re.findall(r"^val_bpb:(\S+) .*plan:(.+)$", output, re.MULTILINE)}


def recorded(folder: Path) -> dict[str, str]:
    rows = json.loads((folder / "result.json").read_text())["scores"]
    return {row["plan"]: f"{row['bits_per_byte']:.8f}" for row in rows if row["model"] == "artifact"}


def test_the_shipped_bytes_reproduce_every_score(
    elsewhere: Script, shipped: Path, finished: Path, text: Path
) -> None:
    assert "bytegolf is not installed" in elsewhere("-c", "import bytegolf").stderr
    before = sorted(shipped.iterdir())
    done = elsewhere("train_gpt.py", "--every", "--text", str(text), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert scores(done.stdout) == recorded(finished)
    assert done.stdout.count(": reproduced\n") == 3
    assert sorted(shipped.iterdir()) == before


def test_it_trains_the_same_recipe_again(
    elsewhere: Script, finished: Path, text: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    done = elsewhere(
        "train_gpt.py", "--train", "--folder", str(again), "--text", str(text), "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    result, first = (json.loads((folder / "result.json").read_text()) for folder in (again, finished))
    assert recorded(again) == recorded(finished)
    assert result["artifact"]["source_bytes"] == first["artifact"]["source_bytes"]
    assert (again / "report.html").is_file()


def test_the_unpacked_modules_make_the_same_script(elsewhere: Script, tmp_path: Path) -> None:
    assert elsewhere("train_gpt.py", "--unpack", str(tmp_path)).returncode == 0
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(files())
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from bytegolf.artifact.source import script; "
        "import hashlib; print(hashlib.sha256(script()).hexdigest())"
    )
    assert elsewhere("-c", code).stdout.strip() == hashlib.sha256(script()).hexdigest()


def test_help_and_missing_packages_need_no_package(shipped: Path) -> None:
    def bare(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-S", "train_gpt.py", *words],
            cwd=shipped,
            capture_output=True,
            text=True,
            check=False,
        )

    helped = bare("--help")
    assert helped.returncode == 0
    assert "--evaluate" in helped.stdout
    assert "--train" in helped.stdout
    for words, packages in (
        ([], "torch numpy sentencepiece brotli constriction"),
        (["--train"], "torch numpy sentencepiece brotli constriction rich matplotlib"),
    ):
        done = bare(*words)
        assert done.returncode == 2
        assert done.stderr == f"train_gpt.py: packages are missing; pip install {packages}\n"


@pytest.fixture
def copied(shipped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shipped, tmp_path / "copied")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_mistake_is_one_line(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--artifact", str(shipped / "artifact.bg")])
    for words, line in (
        (["--text", "none.txt"], "text 'none.txt' does not exist; "),
        (["--shards", "none.bin"], "shard none.bin cannot be read "),
        (["--artifact", "none.bg"], "none.bg cannot be read "),
        (
            ["--train", "--artifact", str(shipped / "README.md")],
            f"{shipped / 'README.md'}: not a bytegolf artifact",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [*sys.argv, *words])
            assert launcher.run(launcher.command_line().parse_args()) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"train_gpt.py: {line}")
        assert said.err.count("\n") == 1


@pytest.mark.parametrize("alone", [False, True], ids=["beside its submission", "alone"])
def test_a_changed_artifact_is_refused(copied: Path, text: Path, alone: bool) -> None:
    artifact = copied / "artifact.bg"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    if alone:
        (copied / "submission.json").unlink()
    with pytest.raises(ArtifactError, match="checksum" if alone else "not the file that submission.json"):
        evaluate(artifact, text=(str(text),))


def test_another_sound_artifact_is_refused(copied: Path, second: Path, text: Path) -> None:
    shutil.copy(second / "artifact.bg", copied / "artifact.bg")
    with pytest.raises(ArtifactError, match=r"not the file that submission\.json"):
        evaluate(copied / "artifact.bg", text=(str(text),))


def test_token_shards_have_the_score_of_their_text(
    shipped: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = str(finished / "data" / "validation_*.bin")
    assert evaluate(shipped / "artifact.bg", shards=(pattern,), device="cpu") == 0
    output = capsys.readouterr().out
    assert scores(output) == {"chunked 32, adaptive": recorded(finished)["chunked 32, adaptive"]}
    assert output.endswith(": reproduced\n")


def test_byte_counts_beside_shards_are_no_shards(shipped: Path, finished: Path, tmp_path: Path) -> None:
    (shard,) = (finished / "data").glob("validation_*.bin")
    shutil.copy(shard, tmp_path / "fineweb_val_bytes_000000.bin")
    with pytest.raises(ShardError, match="byte counts only"):
        evaluate(shipped / "artifact.bg", shards=(str(tmp_path / "fineweb_val_*.bin"),))
    shutil.copy(shard, tmp_path / "fineweb_val_000000.bin")
    assert evaluate(shipped / "artifact.bg", shards=(str(tmp_path / "fineweb_val_*.bin"),), device="cpu") == 0


def test_other_text_is_compared_with_nothing(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("Something else altogether.\n")
    other = (str(tmp_path / "other.txt"),)
    assert evaluate(shipped / "artifact.bg", validation=other, device="cpu") == 0
    output = capsys.readouterr().out
    assert "not the text of the submission" in output
    assert "bytes:27 " in output
    assert "submission.json says" not in output


def test_a_score_that_differs_is_said_and_fails(
    copied: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flatter(data: dict[str, Any]) -> None:
        for row in data["scores"]:
            row["bits_per_byte"] -= 0.01

    rewrite(copied / "submission.json", flatter)
    assert evaluate(copied / "artifact.bg", text=(str(text),), device="cpu") == 1
    assert "NOT REPRODUCED: differs by 0.0100" in capsys.readouterr().out


def test_a_recipe_s_tokenizer_file_is_replaced_by_the_shipped_one(shipped: Path, tmp_path: Path) -> None:
    contents = read_artifact(shipped / "artifact.bg")
    recipe = contents.recipe | {"tokens": to_json(TokenizerFile("/gone/fineweb_1024.model"))}
    moved = tmp_path / "artifact.bg"
    write_artifact(moved, dataclasses.replace(contents, recipe=recipe))
    found = saved_recipe(moved, tmp_path / "run", (), (), 7)
    assert isinstance(found.tokens, TokenizerFile)
    assert Path(found.tokens.path).read_bytes() == contents.tokenizer
    assert (found.training.seed, found.model.vocabulary, found.prepared) == (7, 0, "")
    assert found.training.budget == from_json(type(found), contents.recipe).training.budget
