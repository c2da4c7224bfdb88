"""Networks with loops and options of attention go through an artifact's contents and back."""

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
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.rotary import NtkAware
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

MIXER = Attention(
    heads=2, key_value_heads=1, exclusive=True, differential=0.5, rotary_scaling=NtkAware(8), norm_output=True
)
SPEC = Model(
    width=16,
    layers=(Block(MIXER, SquaredMlp(32)),) * 3,
    skips="gated",
    loop=Loop(1, 1, 4),
    residual_mix="phase",
    scaled_norms=True,
    initialization="orthogonal",
    vocabulary=257,
)


def written() -> tuple[LanguageModel, Contents]:
    torch.manual_seed(0)
    model = SPEC.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter)).copy_(parameter.half())
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    # Nothing is large enough for a grid: all tensors are stored as they are.
    tensors = compress_model(
        dict(model.named_parameters()),
        roles,
        dict.fromkeys(set(roles.values()), Grid(8)),
        passthrough_elements=10**6,
    )
    recipe = {"model": to_json(SPEC), "training": to_json(Training(budget=Budget(steps=1), length=24))}
    return model, Contents(recipe, ByteTokenizer().to_bytes(), tensors, roles, {})


@torch.no_grad()
def test_a_looped_network_comes_back_to_the_bit() -> None:
    model, contents = written()
    loaded = unpack_model(contents, "sound", torch.device("cpu")).model
    assert loaded.spec == SPEC
    ids, starts = torch.randint(0, 257, (2, 20)), torch.zeros(2, 20, dtype=torch.bool)
    for length in (None, 20):
        model.fit_rows(length)
        loaded.fit_rows(length)
        assert torch.equal(loaded.losses(ids, ids, starts), model.losses(ids, ids, starts))


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ({"first": 1, "last": 1, "passes": 2}, "holds other tensors .*_ND"),
        ({"first": 1, "last": 1, "passes": 10**9}, "passes=1000000000"),
        ({"first": 0, "last": 10**9, "passes": 4}, "loop.last=1000000000"),
        (None, "holds other tensors .*_ND"),
    ],
)
def test_a_loop_that_does_not_fit_the_tensors_is_refused(loop: Any, message: str) -> None:
    contents = copy.deepcopy(written()[1])
    contents.recipe["model"]["loop"] = loop
    with pytest.raises(ArtifactError, match=message):
        unpack_model(contents, "broken", torch.device("cpu"))
