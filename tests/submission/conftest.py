"""A tiny finished run and its submission."""

from dataclasses import replace
from pathlib import Path

import pytest

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import run
from bytegolf.submission.folder import Labels, open_run, write
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training


def tiny(text: Path) -> Recipe:
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    return Recipe(
        name="tiny",
        text=Text(sources=(str(text),), cut_bytes=400, held_out=0.2),
        tokens=SentencePiece(300),
        model=Model(width=16, layers=(layer,) * 2),
        training=Training(Budget(steps=4), rows=4, length=32, precision="float32", checkpoint_seconds=1e9),
        compression=Compression(FixedBits(Grid(6))),
        evaluation=Evaluation(
            plans=(Chunked(32), Sliding(32, 16)),
            adaptation=ScoreFirstSgd(chunk=256, length=32, rows=4),
            sample_tokens=0,
            coloured_bytes=0,
        ),
    )


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{i * i % 97} is the square of {i} modulo ninety-seven.\n" for i in range(300)))
    return path


@pytest.fixture(scope="session")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run(tiny(text), folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def second(text: Path, finished: Path) -> Path:
    """A run of the same recipe and another seed."""
    recipe = tiny(text)
    folder = finished.parent / "second"
    run(replace(recipe, training=replace(recipe.training, seed=2)), folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def shipped(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission's folder, far from its run."""
    target = tmp_path_factory.mktemp("shipped") / "2026-04-01_tiny"
    write(open_run(finished), Labels(author="A. Nonymous", blurb="Small | smaller."), target)
    return target
