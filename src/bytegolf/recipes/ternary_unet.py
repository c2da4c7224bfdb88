"""67.4 million weights in 16 MB: matrices of −1, 0 and 1, the rest in eight-bit floats.

Published: 1.1570 bits per byte in sliding windows of 1,024 by 16, 1.1842 in chunks from the file, 15.994 MB
(16 MB challenge, #640: FineWeb, vocabulary 8,192, 10 minutes on 8 H100, 6,520 steps of 91.8 ms; its
73.7 million weights count a head of zeros that takes no part). Measured here on Wikipedia, one H200, 60 s,
65,536 tokens a step (`benchmarks/results/ternary-unet-h200`): 1.3329 sliding (1,024 by 64), 1.3586 in chunks,
15,001,431 bytes.

Here: scales are one for 128 columns of a row, stored as they were trained with, so that nothing shrinks on
loading; trits are entropy coded. Matrices start uniform, not normal with 0.02, which Muon soon forgets. The
temperature of #640 had no effect by its own code and is left out.
"""

from bytegolf.compression.floats import Float8
from bytegolf.compression.spec import Compression, FixedBits, RoleGrid
from bytegolf.compression.ternary import Ternary
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role
from bytegolf.model.rotary import Yarn
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.adam import Adam
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import Schedule
from bytegolf.training.spec import Training

LAYER = Block(
    mixer=Attention(
        heads=8,
        key_value_heads=4,
        query_gain=2.25,
        rotary_base=5000.0,
        rotary_scaling=Yarn(factor=2.0),
        norm_output=True,
    ),
    mlp=SquaredMlp(hidden=3072, norm_output=True),
)

EIGHT_BIT_FLOATS = (RoleGrid(Role.EMBEDDING, Float8()), RoleGrid(Role.EMBEDDING_PROJECTION, Float8()))

RECIPE = Recipe(
    name="ternary_unet",
    tokens=SentencePiece(vocabulary=8192),
    model=Model(
        width=768,
        layers=(LAYER,) * 10,
        embedding=FactoredEmbedding(inner=254, bias=True),
        soft_cap=10.0,
        cap_form="polynomial",
    ),
    training=Training(
        budget=Budget(seconds=599),
        rows=512,
        length=1024,
        forward_rows=64,
        optimizers=Optimizers(
            # NeoMuon: rows of equal length first, then three steps are enough.
            matrices=Muon(learning_rate=0.04, equalize_rows=True, steps=3),
            embedding=Adam(learning_rate=0.02),
            scalars=Adam(learning_rate=0.02),
        ),
        schedule=Schedule(warmdown=0.2),
        average=None,
        z_loss=1e-4,
    ),
    compression=Compression(
        plan=FixedBits(Ternary(group=128), exceptions=EIGHT_BIT_FLOATS),
        budget_bytes=15_830_000,
        quantization_aware_from=0.0,
    ),
    evaluation=Evaluation(plans=(Sliding(1024, 16), Chunked(1024))),
)
