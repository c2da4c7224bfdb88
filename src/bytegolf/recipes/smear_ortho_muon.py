"""A wider MLP paid for by six bits, smeared and hashed embeddings, orthogonal start, decay in Muon.

Published: 1.1556 bits per byte in sliding windows of 1,024 by 64, 1.1891 in chunks, 15,878,809 bytes (16 MB
challenge, record of 2026-03-19 "smeargate_orthoinit_muonwd": FineWeb, vocabulary 1,024, 10 minutes on 8 H100,
12,047 steps). Measured here on Wikipedia, one H200, 60 s, 65,536 tokens a step
(`benchmarks/results/smear-ortho-muon-h200`): 1.3342 sliding, 1.3672 in chunks, 15,457,703 bytes. Its steps
are rungs of `benchmarks/ladder.py`.

Here: documents never see each other, the smear gate included; sizes are entropy coded instead of zstd. The
bigram hash, gate, rates and the fall over 3,000 steps are the record's. On one GPU a run of ten minutes has
fewer steps than that, so its rates fall from the first step on.
"""

from bytegolf.compression.floats import Float16
from bytegolf.compression.grid import Grid, Quantile
from bytegolf.compression.spec import Compression, FixedBits, RoleGrid
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role
from bytegolf.model.smear import SmearMix
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.adam import Adam
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import StepSchedule
from bytegolf.training.spec import Training

LAYER = Block(
    mixer=Attention(heads=8, key_value_heads=4, query_gain=1.5),
    mlp=SquaredMlp(hidden=1536),
)

RECIPE = Recipe(
    name="smear_ortho_muon",
    tokens=SentencePiece(vocabulary=1024),
    model=Model(
        width=512,
        layers=(LAYER,) * 9,
        bigram=BigramSum(buckets=4096, width=128, multiplier=92_821),
        # The record's gate keeps 95 % of the token itself: σ(3) of it, σ(−3) of the one before.
        smear=SmearMix(start=-3.0, place="before_norm"),
        initialization="orthogonal",
    ),
    training=Training(
        budget=Budget(seconds=600),
        rows=512,
        length=1024,
        forward_rows=128,
        optimizers=Optimizers(
            matrices=Muon(
                learning_rate=0.02,
                momentum=0.99,
                momentum_start=0.92,
                momentum_steps=1500,
                weight_decay=0.01,
            ),
            embedding=Adam(learning_rate=0.03),
            scalars=Adam(learning_rate=0.02),
        ),
        schedule=StepSchedule(warmdown=3000),
        average=None,
    ),
    compression=Compression(
        plan=FixedBits(
            Grid(6, Quantile()),
            exceptions=(RoleGrid(Role.EMBEDDING, Float16()), RoleGrid(Role.BIGRAM, Float16())),
        ),
        budget_bytes=15_830_000,
        quantization_aware_from=0.0,
    ),
    evaluation=Evaluation(plans=(Sliding(1024, 64), Chunked(1024))),
)
