"""A small network whose attention has friction in place of a softmax: what one GPU trains in minutes.

RRT-355M (2026) weighs an edge of attention by the fidelity of what its score exceeds ln(distance) by, and
publishes neither a small model nor one of its own shape with a softmax. Here are both: this recipe and
`softmax_small`, which differs from it in the mixer alone.

Eight plain layers, as many key/value heads as query heads, no skips, no mixing with the embedding: as in
`friction_355m`, nothing but the attention is new. Of what the publication leaves open this takes η μ and a
capacity of 4 (docs/techniques/friction.md); benchmarks/friction.py tries other choices. Friction is all that
tells queries where keys are. Normalized queries and keys with a gain of 1 give scores a deviation of 1 at the
start: edges that weigh nothing get no gradient, so some far ones must be there from the first step on. Rates
are those of `best`.
"""

from bytegolf.compression.gptq import Gptq
from bytegolf.compression.spec import Compression, FitBytes
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import Schedule
from bytegolf.training.spec import Training

LAYER = Block(
    mixer=Attention(
        heads=8,
        key_value_heads=8,
        friction=Friction(form="eta_mu", capacity=4.0),
        rotary=False,
        query_gain=1.0,
    ),
    mlp=SquaredMlp(hidden=1536),
)

RECIPE = Recipe(
    name="friction_small",
    tokens=SentencePiece(vocabulary=8192),
    model=Model(width=512, layers=(LAYER,) * 8, skips=False, residual_mix="none"),
    training=Training(
        budget=Budget(seconds=180),
        rows=64,
        length=1024,
        forward_rows=64,
        optimizers=Optimizers(
            matrices=Muon(
                learning_rate=0.026,
                momentum=0.95,
                momentum_start=0.85,
                momentum_steps=400,
                weight_decay=0.08,
                coefficients="polar_express",
                equalize_rows=True,
            ),
            embedding=Adam(learning_rate=0.02),
            scalars=Adam(learning_rate=0.02),
        ),
        schedule=Schedule(warmdown=1.0),
        average=Average(decay=0.95),
        validate_at=(0.33, 0.66),
    ),
    compression=Compression(plan=FitBytes(), budget_bytes=15_830_000, gptq=Gptq()),
    evaluation=Evaluation(plans=(Sliding(1024, 64), Chunked(1024))),
)
