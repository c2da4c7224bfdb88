"""The text that a finished network is looked at with, and files whose integers went by it."""

import dataclasses
import random

import pytest
import torch

from bytegolf.compression.calibration import gather_hessians
from bytegolf.compression.compress import compress_model
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.compression.storage import dequantize_model
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.runner import Trained, train
from bytegolf.running.calibration import calibration_batches
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

GRID = Grid(3, StandardDeviations(4.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, draw = tmp_path_factory.mktemp("calibration"), random.Random(1)
    for number in range(12):
        words = draw.choices(["stone", "river", "went", "over", "the", "light", "again"], k=60)
        (folder / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64))
    recipe = Recipe(
        name="calibrated",
        text=Text(sources=(str(folder),)),
        tokens=Bytes(),
        model=Model(width=32, layers=(layer,) * 2, loop=Loop(1, 1)),
        training=Training(
            budget=Budget(steps=60), rows=8, length=32, forward_rows=8, compile="off", validate_at=()
        ),
        compression=Compression(FixedBits(GRID), passthrough_elements=64),
    )
    run = folder / "run"
    run.mkdir()
    return train(recipe, run, resume=False, ranks=Ranks.start("cpu"), display=Display(None))


def test_training_text_comes_as_training_had_it(trained: Trained) -> None:
    spec = Gptq(batches=2, rows=4)
    found = list(calibration_batches(trained.model, trained.recipe, trained.prepared, spec))
    training = trained.recipe.training
    batches = PackedBatches(
        trained.prepared.training, trained.prepared.tokenizer, rows=4, length=32, seed=training.seed
    )
    assert len(found) == 2
    for step, (ids, targets, starts) in enumerate(found):
        assert torch.equal(ids, batches.batch(step).ids_BT)
        assert torch.equal(targets, batches.batch(step).targets_BT)
        assert torch.equal(starts, batches.batch(step).starts_BT)


def test_generated_text_needs_no_training_text(trained: Trained) -> None:
    spec = Gptq(batches=2, rows=4, calibration="generated")
    without = dataclasses.replace(trained.prepared, training=trained.prepared.validation)
    found = list(calibration_batches(trained.model, trained.recipe, without, spec))
    told = list(calibration_batches(trained.model, trained.recipe, trained.prepared, spec))
    assert [tuple(ids.shape) for ids, _, _ in found] == [(4, 32)] * 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, told, strict=True))


def loss(model: LanguageModel, batches: PackedBatches) -> float:
    made = [batches.batch(step) for step in range(40, 48)]
    with torch.no_grad():
        return sum(float(model.losses(b.ids_BT, b.targets_BT, b.starts_BT).mean()) for b in made) / len(made)


@pytest.mark.parametrize("calibration", ["training", "generated"])
def test_a_trained_network_loses_less_by_it_than_by_rounding_to_nearest(
    trained: Trained, calibration: str
) -> None:
    spec = Gptq(batches=4, rows=8, calibration="training" if calibration == "training" else "generated")
    model, recipe, prepared = trained.model, trained.recipe, trained.prepared
    batches = PackedBatches(prepared.training, prepared.tokenizer, rows=8, length=32, seed=9)
    hessians = gather_hessians(model, calibration_batches(model, recipe, prepared, spec))
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    roles, plan = parameter_roles(model), FixedBits(GRID).grids()
    rises = []
    before = loss(model, batches)
    for gptq in (None, spec):
        stored = compress_model(weights, roles, plan, passthrough_elements=64, hessians=hessians, gptq=gptq)
        model.load_state_dict(dequantize_model(stored))
        rises.append(loss(model, batches) - before)
        model.load_state_dict(weights)
    nearest, solved = rises
    assert nearest > 0.01
    assert solved < 0.8 * nearest
