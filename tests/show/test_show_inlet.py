"""What stands before the first layer and behind the last one, in picture, counts, work and bytes."""

from dataclasses import replace

import pytest
import torch

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramXor
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearGate
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.value_embedding import ValueEmbedding
from bytegolf.recipe import Recipe
from bytegolf.show.network import NetworkPlan, plan_of
from bytegolf.show.picture import text_picture
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

PLAIN = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=128))
TAKES = Block(Attention(heads=2, key_value_heads=1, shared_values=True), SquaredMlp(hidden=128))
RECIPE = Recipe(
    name="plain",
    tokens=Bytes(),
    model=Model(width=64, layers=(PLAIN, PLAIN, PLAIN)),
    training=Training(Budget(steps=10), rows=4, length=32, forward_rows=2),
    compression=Compression(FixedBits(Grid(6))),
)
EVERYTHING = replace(
    RECIPE.model,
    layers=(PLAIN, PLAIN, TAKES),
    embedding=FactoredEmbedding(inner=16, bias=True),
    bigram=BigramXor(buckets=1024, width=8),
    smear=SmearGate(),
    value_embedding=ValueEmbedding(width=20),
    soft_cap=10.0,
    cap_form="polynomial",
)


def planned(model: Model) -> NetworkPlan:
    return plan_of(replace(RECIPE, model=model), device=torch.device("cpu"))


def test_the_picture_names_them() -> None:
    lines = text_picture(planned(EVERYTHING))
    assert lines[0].strip() == (
        "embedding 257 × 16 × 64 + BigramXor 1,024 × 8 + SmearGate + shared values 257 × 20"
    )
    assert lines[-1].strip() == "head: the embedding again, biased, polynomial cap 10"
    plain = text_picture(planned(RECIPE.model))
    assert (plain[0].strip(), plain[-1].strip()) == (
        "embedding 257 × 64",
        "head: the embedding again, soft cap 30",
    )


def test_tables_count_as_weights_and_their_projections_as_work() -> None:
    plain, full = planned(RECIPE.model), planned(EVERYTHING)
    assert full.roles["bigram"] == 1024 * 8
    assert full.roles["value_embedding"] == 257 * 20
    # One value head of 32 channels.
    projections = 2 * 16 * 64 + 8 * 64 + 20 * 32
    assert full.roles["embedding_projection"] == projections
    assert full.flops_forward - plain.flops_forward == 2.0 * (257 * (16 - 64) + projections)


def test_their_bytes_are_planned_and_memory_is_measured() -> None:
    plain, full = planned(RECIPE.model), planned(EVERYTHING)
    assert {row.role for row in full.artifact.roles} >= {"bigram", "value_embedding", "embedding"}
    assert full.memory["activations"] == pytest.approx(plain.memory["activations"], rel=0.2)
    assert full.memory["activations"] > plain.memory["activations"]
