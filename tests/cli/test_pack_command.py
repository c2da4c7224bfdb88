"""`bytegolf pack` and `unpack`: a fresh process with nothing but the artifact and the packed file."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bytegolf
from bytegolf.artifact.container import Contents, write_artifact
from bytegolf.cli import main
from bytegolf.compression.compress import compress_model
from bytegolf.compression.grid import Grid
from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.tokens.spec import Bytes
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

TEXT = b"It was the best of times, it was the worst of times. \xff\x00" * 5


def write_tiny(path: Path, *, seed: int = 0, adapt: bool = False) -> None:
    tokenizer = ByteTokenizer()
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    recipe = Recipe(
        name="tiny",
        tokens=Bytes(),
        model=Model(width=16, layers=(layer,) * 2, vocabulary=tokenizer.vocabulary),
        training=Training(Budget(steps=6), rows=4, length=16, precision="float32"),
        evaluation=Evaluation(
            plans=(Chunked(16),),
            adaptation=ScoreFirstSgd(chunk=100, length=16, rows=4, learning_rate=0.1) if adapt else None,
        ),
    )
    torch.manual_seed(seed)
    model = recipe.model.build()
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    plan = {str(role): Grid(8) for role in Role if role != Role.SCALAR}
    tensors = compress_model(dict(model.named_parameters()), roles, plan)
    write_artifact(path, Contents(to_json(recipe), tokenizer.to_bytes(), tensors, roles, {}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packing")
    write_tiny(folder / "model.bg")
    write_tiny(folder / "other.bg", seed=1)
    write_tiny(folder / "learner.bg", adapt=True)
    (folder / "text.txt").write_bytes(TEXT)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("extra", [[], ["--adapt"], ["--streams", "1", "--length", "8", "--stride", "8"]])
def test_a_file_comes_back_in_a_fresh_process(
    here: Path, tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = "learner.bg" if "--adapt" in extra else "model.bg"
    assert main(["pack", "text.txt", "-m", model, "-o", str(tmp_path / "t.bgp"), *extra]) == 0
    shown = capsys.readouterr().out
    for words in ("source", "packed", "the same in whole windows", "xz -9e", "tokens in"):
        assert words in shown
    assert ("without the cuts" in shown) == (extra == [] or extra == ["--adapt"])
    shutil.copy(model, tmp_path / "m.bg")
    done = subprocess.run(
        [sys.executable, "-m", "bytegolf", "unpack", "t.bgp", "-m", "m.bg"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["pack", "text.txt"], "add -m ARTIFACT"),
        (["pack", "none.txt", "-m", "model.bg"], "none.txt"),
        (["pack", "text.txt", "-m", "none.bg"], "none.bg"),
        (["pack", "text.txt", "-m", "model.bg", "-o", "other.bg"], "exists"),
        (["pack", "text.txt", "-m", "model.bg", "--adapt"], "names no adaptation"),
        (["pack", "text.txt", "-m", "model.bg", "--stride", "90", "--length", "9"], "stride=90"),
        (["unpack", "text.txt", "-m", "model.bg"], "does not end with .bgp"),
        (["unpack", "text.txt", "-m", "model.bg", "-o", "new"], "not a packed file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    here: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert main(words) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_another_artifact_restores_nothing(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = str(tmp_path / "t.bgp")
    assert main(["pack", "text.txt", "-m", "model.bg", "-o", packed, "--compare", "false"]) == 0
    assert main(["unpack", packed, "-m", "other.bg"]) == 2
    assert "not with this one" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_from_python_too(here: Path) -> None:
    artifact = bytegolf.load("model.bg", device="cpu")
    packed = artifact.pack(TEXT)
    assert artifact.unpack(packed) == TEXT
    score = artifact.score(TEXT)
    assert len(packed) < 1.2 * score.bits_per_byte * len(TEXT) / 8 + 64
    assert replace(artifact).unpack(packed) == TEXT
