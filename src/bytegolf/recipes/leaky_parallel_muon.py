"""The last record of the early lineage: leaky squares, Muon sharded over ranks, learning while scoring.

Published: 1.1194 bits per byte after score-first test-time training, 1.1218 before it (16 MB challenge,
record of 2026-03-23: FineWeb, vocabulary 1,024, 10 minutes on 8 H100, 7,179 steps of 83.6 ms; 410 s of
test-time training). Measured here on Wikipedia, one H200, 60 s, 65,536 tokens a step
(`benchmarks/results/leaky-parallel-muon-h200`): 1.5422 in chunks of 1,024, 1.5113 sliding, 1.5318 in chunks
with test-time training, 15,683,558 bytes. Its steps are rungs of `benchmarks/ladder.py`.

Here: `ema_gptq_lite` with another activation, sharded Muon, whose momentum is part of the checkpoint and
whose gradients are clipped by the norm of the whole gradient, and test-time training through the scoring
session.
"""

from dataclasses import replace

from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.stack import Block
from bytegolf.recipes.ema_gptq_lite import RECIPE as BEFORE

LEAKY = SquaredMlp(hidden=1536, slope=0.5)

RECIPE = replace(
    BEFORE,
    name="leaky_parallel_muon",
    model=replace(BEFORE.model, layers=tuple(Block(layer.mixer, LEAKY) for layer in BEFORE.model.layers)),
    training=replace(
        BEFORE.training,
        optimizers=replace(
            BEFORE.training.optimizers,
            matrices=replace(BEFORE.training.optimizers.matrices, sharded=True),
        ),
    ),
    evaluation=replace(BEFORE.evaluation, adaptation=ScoreFirstSgd(length=2048, rows=16)),
)
