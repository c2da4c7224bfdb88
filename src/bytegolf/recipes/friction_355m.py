"""Friction attention in the shape of GPT-2 Medium: 24 layers of 1,024, 16 heads, rows of 1,024 tokens.

Published: RRT-355M (2026), 22,000 steps of 2^19 tokens of FineWeb-Edu, 11.534 billion in all, on four H100:
2.8001 nats a token held out, 99.66 % of all edges exactly zero, 0.1558 in CORE, where GPT-2 Medium, of the
same shape with a softmax, has 0.1770. Not trained here.

Here: that shape, batch and budget with the plain stack of `friction_small`, and edges weighed as there; how
the published model weighs them, and what its capacity is, is not known. The table of tokens is the head too;
there are no biases, no factors in normalizations and no table of positions, which makes 353,502,592 weights
where GPT-2 Medium has 354,823,168. MLPs have 4,096 channels and square what is above zero.

GPT-2's tokenizer is read from a folder `gpt2` with encoder.json and vocab.bpe; --tokens.path names another.
Passes of 32 rows are meant for one GPU of 80 GB with the fused friction kernel. The plain form keeps every
score, gigabytes for one row. More GPUs share the 512 rows of a step.
"""

from dataclasses import replace

from bytegolf.compression.spec import Compression
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.recipes.friction_small import LAYER as SMALL_LAYER
from bytegolf.tokens.spec import TokenizerFile
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import Schedule
from bytegolf.training.spec import Training

LAYER = replace(
    SMALL_LAYER,
    mixer=replace(SMALL_LAYER.mixer, heads=16, key_value_heads=16),
    mlp=SquaredMlp(hidden=4096),
)

RECIPE = Recipe(
    name="friction_355m",
    tokens=TokenizerFile("gpt2"),
    model=Model(width=1024, layers=(LAYER,) * 24, skips=False, residual_mix="none"),
    training=Training(
        budget=Budget(steps=22_000),
        rows=512,
        length=1024,
        forward_rows=32,
        optimizers=Optimizers(
            matrices=Muon(
                learning_rate=0.02,
                momentum=0.95,
                momentum_start=0.85,
                momentum_steps=400,
                weight_decay=0.05,
                coefficients="polar_express",
                equalize_rows=True,
                sharded=True,
            ),
            embedding=Adam(learning_rate=0.01),
            scalars=Adam(learning_rate=0.01),
        ),
        schedule=Schedule(warmup=0.01, warmdown=0.6),
        clip=1.0,
        average=Average(decay=0.997),
        # Every 1,000 steps.
        validate_at=tuple(thousand / 22 for thousand in range(1, 22)),
        checkpoint_seconds=1800.0,
    ),
    compression=Compression(),
    evaluation=Evaluation(plans=(Chunked(1024),)),
)
