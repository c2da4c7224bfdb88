"""Whole runs at toy size: text in, artifact, scores and report out."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bytegolf
from bytegolf.artifact.container import read_artifact
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.plan import plan_from_json
from bytegolf.compression.spec import Compression, FitBytes, FixedBits
from bytegolf.errors import BudgetError, CheckpointError, RecipeError
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.files import write_json
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.report.run_folder import read_run
from bytegolf.runner import compress_run, run, saved_recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.checkpoint import Checkpoints
from bytegolf.training.spec import Training
from bytegolf.tree import to_json


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of sentences that a small model can learn something of."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["the", "king", "river", "stone", "went", "down", "and", "saw", "light", "over", "water", "again"]
    for number in range(40):
        sentences = [" ".join(draw.choices(words, k=8)).capitalize() + "." for _ in range(12)]
        (folder / f"{number}.txt").write_text("\n".join(sentences), encoding="utf-8")
    return folder


def toy(text: Path, *, steps: int = 12, **changes: object) -> Recipe:
    recipe = Recipe(
        name="toy",
        text=Text(sources=(str(text),)),
        tokens=Bytes(),
        model=Model(width=32, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64)),) * 2),
        training=Training(
            budget=Budget(steps=steps),
            rows=8,
            length=32,
            forward_rows=8,
            precision="float32",
            validate_at=(0.5,),
        ),
        compression=Compression(
            plan=FitBytes(), budget_bytes=22_000, quantization_aware_from=0.5, passthrough_elements=512
        ),
        evaluation=Evaluation(plans=(Sliding(32, 16), Chunked(32)), sample_tokens=8, coloured_bytes=500),
    )
    return replace(recipe, **changes)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    run(toy(text), folder, device="cpu")
    return folder


def test_a_run_leaves_a_folder_that_describes_itself(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "recipe.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoint",
        "artifact.bg",
        "result.json",
        "coloured.json",
        "report.html",
    }
    result = json.loads((finished / "result.json").read_text())
    artifact = result["artifact"]
    assert artifact["bytes"] == (finished / "artifact.bg").stat().st_size <= 22_000
    assert sum(part["bytes"] for part in artifact["account"]) == artifact["bytes"]
    assert result["data"]["validation_bytes"] == result["scores"][0]["bytes"] == result["scores"][2]["bytes"]
    assert [row["model"] for row in result["scores"]] == ["float", "artifact", "artifact"]
    assert all(row["bits_per_byte"] < 8.0 for row in result["scores"])
    events = [json.loads(line)["event"] for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert events.count("train") == 12
    assert events.count("validation") == 1
    assert events.count("stage") == 1


def test_the_artifact_holds_what_was_scored(finished: Path, text: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    artifact = bytegolf.load(finished / "artifact.bg", device="cpu")
    held_out = json.loads((finished / "data" / "validation.jsonl").read_text().splitlines()[0])["text"]
    coloured = json.loads((finished / "coloured.json").read_text())[0]
    assert b"".join(bytes.fromhex(piece) for piece, _ in coloured["tokens"]) == held_out.encode()
    score = artifact.score(held_out, Sliding(32, 16))
    # The document is first in the scored stream; only its last window looks back further when it is alone.
    bits = [bits for _, bits in coloured["tokens"]][:-16]
    assert score.nats_N[: len(bits)] / np.log(2.0) == pytest.approx(bits, abs=1e-3)
    assert artifact.recipe == json.loads((finished / "recipe.json").read_text()) | {
        "model": artifact.recipe["model"]
    }
    assert artifact.training["steps"] == result["training"]["steps"] == 12
    assert isinstance(artifact.generate("The king", tokens=4), str)


def test_training_saw_the_grids_that_were_stored(finished: Path) -> None:
    plan = plan_from_json(Checkpoints(finished / "checkpoint").load()["stages"][0])
    contents = read_artifact(finished / "artifact.bg")
    stored = {
        name: tensor.bits if isinstance(tensor, Quantized) else 8 * tensor.element_size()
        for name, tensor in contents.tensors.items()
        if contents.roles[name] in plan
    }
    assert stored == {name: plan.get(name, plan[contents.roles[name]]).bits for name in stored}
    rows = json.loads((finished / "result.json").read_text())["plan"]
    assert {row["role"] for row in rows} == {contents.roles[name] for name in stored}


def test_a_run_goes_on_from_its_checkpoint_stages_included(text: Path, tmp_path: Path) -> None:
    recipe = toy(text)
    # A budget of tokens ends this one after 8 of its 12 steps, and after its quantization-aware stage began.
    budget = Budget(steps=12, tokens=8 * 32 * 8)
    run(replace(recipe, training=replace(recipe.training, budget=budget)), tmp_path / "half", device="cpu")
    assert Checkpoints(tmp_path / "half" / "checkpoint").load()["step"] == 8
    saved = json.loads((tmp_path / "half" / "recipe.json").read_text())
    saved["training"]["budget"]["tokens"] = None
    write_json(tmp_path / "half" / "recipe.json", saved)
    run(recipe, tmp_path / "half", resume=True, device="cpu")
    assert Checkpoints(tmp_path / "half" / "checkpoint").load()["step"] == 12
    events = [json.loads(line) for line in (tmp_path / "half" / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(1, 13))
    assert [event["event"] for event in events].count("stage") == 1


def test_a_folder_with_a_run_is_not_overwritten(finished: Path, text: Path) -> None:
    before = (finished / "artifact.bg").read_bytes()
    with pytest.raises(RecipeError, match="already holds a run"):
        run(toy(text), finished, device="cpu")
    assert (finished / "artifact.bg").read_bytes() == before


def test_a_hopeless_byte_budget_is_refused_before_training(text: Path, tmp_path: Path) -> None:
    recipe = toy(text)
    recipe = replace(recipe, compression=replace(recipe.compression, budget_bytes=3_000))
    with pytest.raises(BudgetError, match="too small for this model"):
        run(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "artifact.bg").exists()


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(text: Path, tmp_path: Path) -> None:
    recipe = toy(text)
    recipe = replace(recipe, model=replace(recipe.model, vocabulary=300))
    with pytest.raises(RecipeError, match="the tokenizer has 257 ids"):
        run(recipe, tmp_path / "run", device="cpu")


def test_a_checkpoint_can_be_compressed_again_under_another_plan(
    finished: Path, text: Path, tmp_path: Path
) -> None:
    recipe = toy(text)
    folder = shutil.copytree(finished, tmp_path / "run")
    metrics = (folder / "metrics.jsonl").read_bytes()
    plan = FixedBits(Grid(3, StandardDeviations(4.0)))
    again = replace(recipe, compression=Compression(plan=plan, passthrough_elements=512))
    result = compress_run(folder, again, device="cpu")
    assert {row["bits"] for row in result["plan"]} == {3}
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    bits = {
        t.bits for t in read_artifact(folder / "artifact.bg").tensors.values() if isinstance(t, Quantized)
    }
    assert bits == {3}


def test_what_is_no_run_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no recipe\.json"):
        saved_recipe(tmp_path)


#: As `python -m bytegolf train` does it, one recipe after the other: a process takes seconds to begin.
EACH = """
import runpy, sys
for folder in sys.argv[1:]:
    sys.argv = ["bytegolf", "train", f"{folder}/toy.json", "--folder", f"{folder}/run"]
    try:
        runpy.run_module("bytegolf", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0
"""


@pytest.fixture(scope="module")
def trained_twice(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each recipe the folders of one run in two processes and of one in a single process."""
    recipe = toy(text, steps=3)
    # First no weights are rounded in training: there a last bit can decide for a whole step of the grid.
    recipes = {
        "as they are": with_fixed_grids(recipe, aware_from=None),
        "rounded": with_fixed_grids(recipe, aware_from=0.5),
    }
    folders = {name: tmp_path_factory.mktemp("twice") for name in recipes}
    for name, folder in folders.items():
        (folder / "toy.json").write_text(json.dumps(to_json(recipes[name])))
    script = tmp_path_factory.mktemp("script") / "each.py"
    script.write_text(EACH)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, folder in folders.items():
        run(recipes[name], folder / "alone", device="cpu")
    return {name: (folder / "run", folder / "alone") for name, folder in folders.items()}


def losses_and_norms(folder: Path) -> tuple[list[float], list[float]]:
    """Loss and gradient norm of every training step."""
    return read_run(folder).points("train", "loss", "gradient_norm")


def with_fixed_grids(recipe: Recipe, *, aware_from: float | None) -> Recipe:
    """Sums of two processes differ in their last bits, on which a search of grids may turn."""
    plan = FixedBits(Grid(6, StandardDeviations(12.5)))
    fixed = replace(recipe.compression, plan=plan, quantization_aware_from=aware_from)
    return replace(recipe, compression=fixed)


def test_two_processes_train_through_torchrun(trained_twice: dict[str, tuple[Path, Path]]) -> None:
    runs = trained_twice["as they are"]
    result = json.loads((runs[0] / "result.json").read_text())
    assert result["training"]["steps"] == 3
    for here, there in zip(*map(losses_and_norms, runs), strict=True):
        assert here == pytest.approx(there, rel=1e-5)
    ends = [Checkpoints(folder / "checkpoint").load()["model"] for folder in runs]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-3, atol=1e-5)


def test_two_processes_round_their_weights_from_the_same_step(
    trained_twice: dict[str, tuple[Path, Path]],
) -> None:
    runs = trained_twice["rounded"]
    assert [event["step"] for event in read_run(runs[0]).events("stage")] == [2]
    # Two steps are those of one process; the third is the first with rounded weights.
    for here, there in zip(*map(losses_and_norms, runs), strict=True):
        assert here[:2] == pytest.approx(there[:2], rel=1e-5)
        assert here[2] == pytest.approx(there[2], rel=3e-3)


def test_sigterm_saves_and_resume_goes_on(text: Path, tmp_path: Path) -> None:
    recipe = toy(text, steps=100_000)
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(to_json(recipe)))
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "bytegolf", "train", str(path), "--folder", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_bytes()) > 2000):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    saved = Checkpoints(folder / "checkpoint").load()
    assert saved["step"] > 0
