"""Twelve layers over 12,288 pieces of text with marked capitals: sparse gates, rotated grids, learning.

Published: 1.07134 bits per byte after phased test-time training, 1.07515 sliding, 1.07083 before
quantization, 15,878,568 bytes (16 MB challenge, #2143: FineWeb, 10 minutes on 8 H100, 4,288 steps of 139 ms).
Not trained here as it stands.

Here: `nine_hyperparameters` with that entry's settings; of its layers from the seventh on attention and MLP
read the same input, also while adapters learn, where the entry had fallen back to one after the other. Grids
of all but the table are rotated and have 5 bits, keys, values and the MLPs' first matrices 6.
"""

from dataclasses import replace

from bytegolf.compression.grid import AbsMax, Grid, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FixedBits, RoleGrid
from bytegolf.model.gates import SparseGate
from bytegolf.model.roles import Role
from bytegolf.recipes.nine_hyperparameters import LAYER
from bytegolf.recipes.nine_hyperparameters import RECIPE as NINE
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.groups import Optimizers

DEVIATIONS = StandardDeviations(12.85)
FIVE_BITS = Grid(5, DEVIATIONS, rotated=True)
SIX_BITS = Grid(6, DEVIATIONS, rotated=True)

GATED = replace(LAYER, mixer=replace(LAYER.mixer, query_gain=5.25, gate=SparseGate(channels=12, scale=1.0)))
FIRST = replace(GATED, mixer=replace(GATED.mixer, exclusive=False))
PARALLEL = replace(GATED, parallel=True)

RATES = NINE.training.optimizers

RECIPE = replace(
    NINE,
    name="caseops_sparse_gate",
    tokens=SentencePiece(vocabulary=12_288, casing=True),
    model=replace(NINE.model, layers=(FIRST, *(GATED,) * 6, *(PARALLEL,) * 5), lanes=None),
    training=replace(
        NINE.training,
        optimizers=Optimizers(
            matrices=replace(RATES.matrices, momentum=0.99),
            embedding=replace(RATES.embedding, weight_decay=0.095),
            scalars=RATES.scalars,
        ),
    ),
    compression=Compression(
        plan=FixedBits(
            FIVE_BITS,
            exceptions=(
                RoleGrid(Role.EMBEDDING, Grid(7, StandardDeviations(14))),
                RoleGrid(Role.ATTENTION_KEY, SIX_BITS),
                RoleGrid(Role.ATTENTION_VALUE, SIX_BITS),
                RoleGrid(Role.MLP_UP, SIX_BITS),
            ),
        ),
        budget_bytes=15_830_000,
        gptq=NINE.compression.gptq,
        correction=LowRankCorrection(rank=4, matrices=3, largest="norm"),
        gates=Grid(8, AbsMax()),
    ),
)
