"""Eleven layers with exclusive attention and SwiGLU for one GPU, and adapters that learn while scoring.

Published: 1.1573 bits per byte on FineWeb, "11L XSA + SwiGLU + LoRA TTT" on one H100 (a fork of the 16 MB
challenge; its page gives the score and the names of the parts). Measured here on Wikipedia, one H200, 60 s,
65,536 tokens a step (`benchmarks/results/swiglu-xsa-adapter-h200`): 1.3574 in chunks, 1.3206 sliding (1,024
by 64), 1.3223 with adapters, which learn nothing there that sliding windows don't give; 15,696,673 bytes.

Rates, batch and adapters are not published. Here they are those of `ema_gptq_lite`, with a batch for one GPU
and momentum to go with it, exclusive attention in the last four layers, SwiGLU of as many weights, and the
adapters of the challenge's entry of 2026-03-17: rank 8 on queries, values and head, fresh for each document.
"""

from dataclasses import replace

from bytegolf.evaluation.adaptation import DocumentLora
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.mlp import SwiGlu
from bytegolf.model.stack import Block
from bytegolf.recipes.ema_gptq_lite import RECIPE as BEFORE
from bytegolf.training.schedule import Schedule

#: Three matrices of 1,024 channels have the weights of two of 1,536.
GATED = SwiGlu(hidden=1024)

RECIPE = replace(
    BEFORE,
    name="swiglu_xsa_adapter",
    model=replace(BEFORE.model, layers=tuple(Block(layer.mixer, GATED) for layer in BEFORE.model.layers)),
    training=replace(
        BEFORE.training,
        rows=128,
        length=1024,
        forward_rows=128,
        optimizers=replace(
            BEFORE.training.optimizers,
            matrices=replace(
                BEFORE.training.optimizers.matrices, momentum=0.95, momentum_start=0.85, momentum_steps=500
            ),
        ),
        schedule=Schedule(warmdown=1.0),
    ),
    evaluation=replace(
        BEFORE.evaluation, plans=(Sliding(1024, 64), Chunked(1024)), adaptation=DocumentLora()
    ),
)
