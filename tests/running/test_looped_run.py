"""A run whose loop begins part-way: trained in two orders of layers, packed and scored in a third."""

import json
from pathlib import Path

import pytest

import bytegolf
from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits, Noise
from bytegolf.model.attention import Attention
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.runner import Trained, train, trained_run
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32))
SENTENCE = "The river went over the stone, and the light came down again. "


def trained(folder: Path, start: float) -> tuple[Recipe, Trained]:
    text = folder / "text"
    text.mkdir()
    for number in range(8):
        (text / f"{number}.txt").write_text(SENTENCE[number:] * 6, encoding="utf-8")
    loop = Loop(1, 1, 2, start=start, injection=Parcae(truncate=1), extra_passes=1)
    recipe = Recipe(
        name="looped",
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        model=Model(width=16, layers=(LAYER,) * 4, skips="gated", loop=loop, lanes=Lanes(3)),
        training=Training(
            Budget(steps=4),
            rows=4,
            length=32,
            forward_rows=4,
            precision="float32",
            compile="off",
            validate_at=(),
        ),
        compression=Compression(
            FixedBits(Grid(8)), noise=Noise(start=0.0, looped_only=True), passthrough_elements=64
        ),
    )
    run = folder / "run"
    run.mkdir()
    return recipe, train(recipe, run, resume=False, ranks=Ranks.start("cpu"), display=Display(None))


@pytest.mark.parametrize("start", [0.5, 0.9])
def test_whatever_was_trained_the_looped_network_is_packed_and_scored(tmp_path: Path, start: float) -> None:
    recipe, result = trained(tmp_path, start)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    stages = [event["name"] for event in map(json.loads, lines) if event["event"] == "stage"]
    # Noise on looped layers needs no loop to have begun; the last step begins at three quarters.
    assert stages == (["noisy training", "loop"] if start == 0.5 else ["noisy training"])
    assert result.model.stack.order == (0, 1, 1, 1, 2, 3)
    exported = export(
        result.model, result.recipe, result.prepared, result.seen_plan, result.training, tmp_path
    )
    artifact = bytegolf.load(str(exported.path))
    assert artifact.model.stack.order == (0, 1, 1, 1, 2, 3)
    assert 0.0 < artifact.score(SENTENCE).bits_per_byte < 9.0
    # What the newest checkpoint has learned is the same network.
    again = trained_run(tmp_path / "run", recipe, Ranks.start("cpu"), Display(None))
    assert again.model.stack.order == result.model.stack.order
