"""From an artifact's contents to a model: what does not fit together is refused in one line."""

import copy
from typing import Any

import pytest
import torch

from bytegolf.artifact.container import Contents
from bytegolf.artifact.loading import unpack_model
from bytegolf.compression.compress import compress_model
from bytegolf.compression.grid import Grid
from bytegolf.errors import ArtifactError
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

CPU = torch.device("cpu")


def contents() -> Contents:
    spec = Model(
        width=16, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32)),) * 2, vocabulary=257
    )
    model = spec.build()
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    grids = {role: Grid(8) for role in set(roles.values())}
    tensors = compress_model(dict(model.named_parameters()), roles, grids, passthrough_elements=64)
    recipe = {"model": to_json(spec), "training": to_json(Training(budget=Budget(steps=1), length=24))}
    return Contents(recipe, ByteTokenizer().to_bytes(), tensors, roles, {})


def changed(*path: Any, value: Any) -> Contents:
    made = contents()
    recipe = copy.deepcopy(made.recipe)
    place = recipe
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return Contents(recipe, made.tokenizer, made.tensors, made.roles, made.training)


def test_a_sound_one_gives_model_tokenizer_and_context() -> None:
    loaded = unpack_model(contents(), "sound", CPU)
    assert loaded.context == 24
    assert loaded.tokenizer.vocabulary == loaded.model.spec.vocabulary == 257


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: changed("model", "width", value=24), "holds other tensors"),
        (lambda: changed("model", "layers", value=[]), "does not describe a model"),
        (lambda: changed("model", "layers", value=[{}] * 100_000), "describes 100000 layers"),
        (lambda: changed("model", value=None), "does not describe a model"),
        (lambda: changed("training", value={"type": "Training"}), "does not describe a model"),
        (lambda: changed("model", "vocabulary", value=300), "a model of 300 ids"),
        (lambda: changed("model", "layers", 0, "mlp", "hidden", value=10**30), "cannot be built"),
        (lambda: changed("model", "layers", 0, "mixer", "heads", value=10**18), "no multiple of heads"),
        (lambda: changed("model", "width", value=10**12), "cannot be built"),
    ],
    ids=[
        "width",
        "no layers",
        "many layers",
        "no model",
        "no length",
        "vocabulary",
        "hidden",
        "heads",
        "huge width",
    ],
)
def test_what_does_not_fit_is_refused_without_taking_memory(made: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        unpack_model(made(), "strange", CPU)
    assert "\n" not in str(caught.value)
