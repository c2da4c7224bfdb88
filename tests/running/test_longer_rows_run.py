"""A run whose rows grow longer part-way: its file, its samples and its calibration know the longest rows."""

from pathlib import Path

import pytest
from rich.console import Console

import bytegolf
from bytegolf.artifact.loading import _context
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.errors import RecipeError
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.report.run_folder import read_run
from bytegolf.runner import run
from bytegolf.running.calibration import calibration_batches
from bytegolf.running.prepared import open_data
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.longer_rows import LongerRows
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training


def recipe_of(folder: Path) -> Recipe:
    text = folder / "text.txt"
    text.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    return Recipe(
        name="longer",
        text=Text(sources=(str(text),), cut_bytes=2000),
        tokens=Bytes(),
        model=Model(width=16, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32)),) * 2),
        training=Training(
            Budget(steps=4),
            rows=4,
            length=32,
            forward_rows=4,
            precision="float32",
            validate_at=(),
            longer_rows=LongerRows(start=0.5, times=2),
        ),
        compression=Compression(FixedBits(Grid(6)), passthrough_elements=64, gptq=Gptq(batches=2, rows=6)),
        evaluation=Evaluation(plans=(Chunked(64),), sample_tokens=4, coloured_bytes=0),
    )


def test_what_follows_training_has_the_longest_rows(tmp_path: Path) -> None:
    recipe, folder = recipe_of(tmp_path), tmp_path / "run"
    run(recipe, folder, console=Console(quiet=True))
    assert bytegolf.load(folder / "artifact.bg").context == 64
    steps, shares = read_run(folder).points("stage", "step", "seconds")
    assert (steps, len(shares)) == ([2], 1)
    prepared = open_data(recipe, folder, Ranks.start("cpu"), Display(None))
    model = bytegolf.load(folder / "artifact.bg").model
    assert recipe.compression.gptq is not None
    shapes = [ids.shape for ids, *_ in calibration_batches(model, recipe, prepared, recipe.compression.gptq)]
    assert shapes == [(3, 64), (3, 64)]


def test_a_file_that_says_nonsense_of_its_rows_is_refused() -> None:
    assert _context({"length": 32}) == 32
    assert _context({"length": 32, "longer_rows": {"start": 0.5, "times": 3}}) == 96
    for wrong in ({"times": 0}, {"times": "2"}, {}, 3, "two"):
        with pytest.raises(RecipeError, match="longer_rows"):
            _context({"length": 32, "longer_rows": wrong})
