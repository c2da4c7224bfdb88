"""A model of your own text in a megabyte, on a laptop processor in five minutes.

Four wide, shallow layers: on two processor cores time goes into passes over memory, so few large matrices
learn more in a minute than many small ones. A vocabulary of 4,096 pieces makes each token worth four bytes.
The smear gate hands each token part of the one before it, which so few layers are slow to find out.
"""

from bytegolf.compression.gptq import Gptq
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FitBytes
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearMix
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import Schedule
from bytegolf.training.spec import Training

LAYER = Block(
    mixer=Attention(heads=3, key_value_heads=1),
    mlp=SquaredMlp(hidden=768, slope=0.5),
)

RECIPE = Recipe(
    name="pocket",
    text=Text(sources=("kjv",)),
    tokens=SentencePiece(vocabulary=4096),
    model=Model(
        width=192,
        layers=(LAYER,) * 4,
        embedding=TiedEmbedding(deviation=0.02),
        smear=SmearMix(),
        skips=False,
    ),
    training=Training(
        budget=Budget(seconds=260),
        rows=16,
        length=256,
        forward_rows=16,
        optimizers=Optimizers(
            matrices=Muon(
                learning_rate=0.02,
                momentum=0.95,
                momentum_steps=200,
                coefficients="polar_express",
                equalize_rows=True,
            ),
            embedding=Adam(learning_rate=0.02),
            scalars=Adam(learning_rate=0.02),
        ),
        schedule=Schedule(warmdown=0.9),
        average=Average(decay=0.98),
        validate_at=(0.33, 0.66),
    ),
    compression=Compression(
        plan=FitBytes(),
        budget_bytes=1_000_000,
        # Half a minute after training, instead of a fifth of it spent with rounded weights.
        gptq=Gptq(),
        correction=LowRankCorrection(),
    ),
    evaluation=Evaluation(
        plans=(Sliding(256, 128), Chunked(256)),
        prompts=("", "And it came to pass"),
        sample_tokens=120,
    ),
)
