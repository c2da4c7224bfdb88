"""Every recipe at toy width: three steps, the file, and a score from the file."""

import dataclasses
import importlib
import json
import math
import pkgutil
import random
from pathlib import Path
from typing import Any

import pytest

import bytegolf
import bytegolf.recipes
from bytegolf.evaluation.adaptation import DocumentLora, ScoreFirstSgd
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum, BigramXor
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import Model
from bytegolf.model.value_embedding import ValueEmbedding
from bytegolf.recipe import Recipe
from bytegolf.runner import train
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

NAMES = sorted(module.name for module in pkgutil.iter_modules(bytegolf.recipes.__path__))

#: What is made small, by class: everything else stays as the recipe has it.
SMALL: dict[type, dict[str, Any]] = {
    Attention: {"heads": 4, "key_value_heads": 2, "rotary_dimensions": 0},
    SquaredMlp: {"hidden": 48},
    SwiGlu: {"hidden": 48},
    Model: {"width": 32},
    FactoredEmbedding: {"inner": 16},
    BigramSum: {"buckets": 64, "width": 16},
    BigramXor: {"buckets": 64, "width": 16},
    ValueEmbedding: {"width": 16},
    Training: {
        "rows": 4,
        "length": 32,
        "forward_rows": 2,
        "budget": Budget(steps=3),
        "precision": "float32",
        "compile": "off",
        "validate_at": (),
    },
    Sliding: {"length": 32, "stride": 16},
    Chunked: {"length": 32},
    DocumentLora: {"rank": 2, "chunk": 16, "length": 32},
    ScoreFirstSgd: {"chunk": 256, "length": 32, "rows": 4},
}


def small(spec: Any) -> Any:
    """The same tree with the sizes of `SMALL`."""
    if isinstance(spec, tuple):
        return tuple(small(item) for item in spec)
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = {field.name: small(getattr(spec, field.name)) for field in dataclasses.fields(spec)}
    return type(spec)(**(fields | SMALL.get(type(spec), {})))


def toy(name: str, text: Path) -> Recipe:
    recipe = importlib.import_module(f"bytegolf.recipes.{name}").RECIPE
    return dataclasses.replace(
        small(recipe),
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        compression=dataclasses.replace(recipe.compression, budget_bytes=1_000_000, passthrough_elements=64),
        evaluation=dataclasses.replace(
            small(recipe.evaluation), prompts=("",), sample_tokens=4, coloured_bytes=64
        ),
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(1)
    for number in range(12):
        words = draw.choices(["stone", "river", "went", "over", "the", "light", "again"], k=40)
        (folder / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_a_file_and_a_score_from_it(name: str, text: Path, tmp_path: Path) -> None:
    recipe, silent = toy(name, text), Display(None)
    trained = train(recipe, tmp_path, resume=False, ranks=Ranks.start("cpu"), display=silent)
    assert trained.training["steps"] == 3
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert len(set(losses)) == 3
    assert all(map(math.isfinite, losses))
    exported = export(
        trained.model, trained.recipe, trained.prepared, trained.seen_plan, trained.training, tmp_path
    )
    artifact = bytegolf.load(str(exported.path))
    document = (text / "0.txt").read_text()
    for plan in recipe.evaluation.plans:
        assert 0.0 < artifact.score(document, plan=plan).bits_per_byte < 9.0
    weights = dict(trained.model.named_parameters())
    for row in exported.plan_rows:
        # Three steps leave weights near their start; what the grid does to them is bounded all the same.
        assert row["relative_error"] < 0.75
    assert weights.keys() == dict(artifact.model.named_parameters()).keys()
    if recipe.evaluation.adaptation is not None:
        ids, starts = token_stream(artifact.tokenizer, [document, document])
        adapted = score(
            artifact.model,
            artifact.tokenizer,
            ids,
            starts,
            recipe.evaluation.plans[0],
            adaptation=recipe.evaluation.adaptation,
        )
        assert 0.0 < adapted.bits_per_byte < 9.0
