"""Runs at toy size whose roles are stored in every way there is, and files pruned to their budget."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bytegolf
from bytegolf.artifact.container import read_artifact
from bytegolf.compression.floats import Float8, Float16
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FitBytes, FixedBits, Noise, RoleGrid
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import BudgetError
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import compress_run, run, saved_recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.checkpoint import Checkpoints
from bytegolf.training.spec import Training

_EXCEPTIONS = (
    RoleGrid(Role.EMBEDDING, Float8()),
    RoleGrid(Role.ATTENTION_OUT, Float16()),
    RoleGrid(Role.MLP_UP, Binary(16)),
    RoleGrid(Role.MLP_DOWN, Grid(5, StandardDeviations(9.0))),
)
_SPEC = Compression(
    FixedBits(Ternary(16, scale="refit"), _EXCEPTIONS),
    quantization_aware_from=0.6,
    noise=Noise(0.2, looped_only=True),
    passthrough_elements=512,
)

_COARSE = Grid(4, StandardDeviations(7.0))


def _recipe(text: Path) -> Recipe:
    return Recipe(
        name="stored",
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        model=Model(
            width=32,
            layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64)),) * 2,
            loop=Loop(1, 1),
        ),
        training=Training(
            Budget(steps=10),
            rows=4,
            length=32,
            forward_rows=4,
            precision="float32",
            average=None,
            validate_at=(),
        ),
        compression=_SPEC,
        evaluation=Evaluation(plans=(Chunked(32),), sample_tokens=0, coloured_bytes=100),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for number in range(20):
        words = draw.choices(["king", "river", "stone", "went", "down", "again"], k=60)
        (text / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    return text


@pytest.fixture(scope="module")
def stored(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "stored"
    run(_recipe(written), folder, device="cpu")
    return folder


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_every_role_is_stored_as_its_plan_says(stored: Path) -> None:
    rows = {row["role"]: row for row in _result(stored)["plan"]}
    assert rows["embedding"]["clip"] == "float8 e4m3"
    assert rows["attention_out"]["clip"] == "float16"
    assert rows["mlp_up"]["clip"] == "binary, groups of 16"
    assert rows["attention_query"]["clip"] == "ternary, groups of 16, refit"
    assert {role: row["bits"] for role, row in rows.items()} == {
        "embedding": 8,
        "attention_out": 16,
        "mlp_up": 1,
        "mlp_down": 5,
        "attention_query": 2,
        "attention_key": 2,
        "attention_value": 2,
    }
    assert all(row["bytes"] > 0 for row in rows.values())
    errors = [rows[role]["relative_error"] for role in ("attention_out", "embedding", "mlp_down", "mlp_up")]
    assert errors == sorted(errors)
    tensors = read_artifact(stored / "artifact.bg").tensors
    assert tensors["embedding.weight"].dtype == torch.float8_e4m3fn  # pyrefly: ignore[missing-attribute]


def test_the_file_holds_what_the_last_step_would_have_seen(stored: Path) -> None:
    weights = Checkpoints(stored / "checkpoint").load()["model"]
    model = bytegolf.load(stored / "artifact.bg", device="cpu").model
    assert isinstance(_SPEC.plan, FixedBits)
    plan, checked = _SPEC.plan.grids(), set()
    for name, role in parameter_roles(model).items():
        value = model.get_parameter(name)
        if value.dim() == 2 and value.numel() >= 512 and role != Role.SCALAR:
            assert torch.equal(value, plan[role].fake_quantize(weights[name])), name
            checked.add(role)
    assert checked == {row["role"] for row in _result(stored)["plan"]}


def test_noise_and_quantization_begin_in_turn(stored: Path) -> None:
    events = [json.loads(line) for line in (stored / "metrics.jsonl").read_text().splitlines()]
    assert [(event["name"], event["step"]) for event in events if event["event"] == "stage"] == [
        ("noisy training", 2),
        ("quantization-aware training", 6),
    ]


@pytest.fixture(scope="module")
def whole(stored: Path) -> tuple[int, int]:
    """The bytes and the zeros of the coarse file before anything is pruned."""
    spec = Compression(FixedBits(_COARSE), passthrough_elements=512)
    result = compress_run(stored, replace(saved_recipe(stored), compression=spec), device="cpu")
    return result["artifact"]["bytes"], _zeros(stored)


@pytest.mark.parametrize("plan", [FixedBits(_COARSE), FitBytes((_COARSE, Grid(6)))], ids=["fixed", "fitted"])
def test_a_file_over_its_budget_is_pruned_to_it(
    stored: Path, whole: tuple[int, int], plan: FixedBits | FitBytes
) -> None:
    budget = round(0.96 * whole[0])
    spec = Compression(plan, budget, passthrough_elements=512, prune_to_fit=True)
    result = compress_run(stored, replace(saved_recipe(stored), compression=spec), device="cpu")
    assert 0.99 * budget < result["artifact"]["bytes"] <= budget
    assert (stored / "artifact.bg").stat().st_size == result["artifact"]["bytes"]
    assert _zeros(stored) > whole[1]


def _zeros(folder: Path) -> int:
    tensors = read_artifact(folder / "artifact.bg").tensors.values()
    return sum(int((tensor.ints == 0).sum()) for tensor in tensors if isinstance(tensor, Quantized))


def test_a_budget_that_pruning_cannot_meet_is_told_in_one_line(stored: Path) -> None:
    recipe = saved_recipe(stored)
    spec = Compression(FixedBits(Grid(6)), 5_000, passthrough_elements=512, prune_to_fit=True)
    with pytest.raises(BudgetError, match="even with every integer ±1 pruned"):
        compress_run(stored, replace(recipe, compression=spec), device="cpu")


def test_hessians_corrections_and_rotation_meet_in_one_file(stored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stored, folder)
    grids = tuple(Grid(bits, StandardDeviations(k), rotated=True) for bits, k in ((6, 10.0), (4, 6.0)))
    spec = Compression(
        FitBytes(grids),
        budget_bytes=9_300,
        passthrough_elements=512,
        gptq=Gptq(batches=2, rows=4),
        correction=LowRankCorrection(rank=2, matrices=2),
    )
    recipe = replace(saved_recipe(folder), compression=spec)
    result = compress_run(folder, recipe, device="cpu")
    assert 0.99 * 9_300 <= result["artifact"]["bytes"] <= 9_300
    seconds = result["compression"]["seconds"]
    assert seconds.keys() == {"sensitivities", "hessians", "plan", "rounding", "correction", "coding"}
    assert all(value > 0 for value in seconds.values())
    account = {part["part"]: part["bytes"] for part in result["artifact"]["account"]}
    assert account["corrections"] > 0
    matrices = [t for t in read_artifact(folder / "artifact.bg").tensors.values() if isinstance(t, Quantized)]
    assert all(matrix.rotated for matrix in matrices)
    assert sum(matrix.correction is not None for matrix in matrices) == 2
    first = (folder / "artifact.bg").read_bytes()
    compress_run(folder, recipe, device="cpu")
    assert (folder / "artifact.bg").read_bytes() == first
