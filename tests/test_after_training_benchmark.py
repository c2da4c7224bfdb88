"""benchmarks/after_training.py on a run that trains in seconds: every question is answered."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import run
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training


def test_one_training_answers_all_questions(
    benchmark_script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = benchmark_script("after_training")
    from toy_recipes import small

    monkeypatch.setattr(
        script, "ROUNDINGS", {name: small(rounding) for name, rounding in script.ROUNDINGS.items()}
    )
    folder, out, text = tmp_path / "run", tmp_path / "record.json", tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} tells of {i * i % 97} things.\n" for i in range(900)))
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    recipe = Recipe(
        name="after",
        text=Text(sources=(str(text),), cut_bytes=2000),
        tokens=Bytes(),
        model=Model(width=16, layers=(layer,)),
        training=Training(Budget(steps=20), rows=4, length=32, precision="float32"),
        compression=Compression(FixedBits(Grid(8)), passthrough_elements=64),
        evaluation=Evaluation(plans=(Chunked(32),), sample_tokens=0, coloured_bytes=0),
    )
    run(recipe, folder, console=Console(quiet=True))
    script.main([str(folder), "--bits", "3", "--out", str(out)])
    found = json.loads(out.read_text())
    assert [row["clip"]["type"] for row in found["clips"]] == [type(clip).__name__ for clip in script.CLIPS]
    assert len({row["bits_per_byte"] for row in found["clips"]}) >= 3
    sizes = [row["bytes"] for row in found["tables"]]
    half, eight, _, _, _, few, _ = (row["bits_per_byte"] for row in found["tables"])
    assert sizes[0] > sizes[1] > sizes[3] > sizes[5]
    assert abs(half - eight) < abs(few - eight)
    named = {(row["bits"], row["rounding"]): row for row in found["roundings"]}
    assert list(named) == [(bits, name) for bits in (5, 4) for name in script.ROUNDINGS]
    assert len({row["bits_per_byte"] for row in named.values()}) > 12
    assert named[4, "GPTQ, all corrected"]["bytes"] > named[4, "GPTQ, three corrected"]["bytes"]
    plain, longer, rescaled = found["rows"]
    assert plain["bits_per_byte"] == found["float"]
    assert (longer["length"], rescaled["length"]) == (44, 44)
    assert len({row["bits_per_byte"] for row in found["rows"]}) == 3
