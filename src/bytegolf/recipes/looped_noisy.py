"""Three blocks, run three times, trained under the noise of the grid that they are exported to.

Published: 1.3462 bits per byte for 3 × 3 before quantization, which then multiplied its error about 900-fold:
0.37 more with 8 bits, 1.14 more with 6; with noise of one step while training, 0.002 (16 MB challenge, #363,
FineWeb, ten minutes). Its width and rates are not all published. Measured here on Wikipedia, one H200, 60 s,
65,536 tokens a step (`benchmarks/results/looped-noisy-h200`): 1.3658 before quantization, 1.3660 after it,
1.3299 sliding (1,024 by 64), 13,877,026 bytes.

Here: `baseline` with a vocabulary of 1,024 and three blocks of half as many channels again, and uniform noise
of one step of the very grid that exports, drawn anew at each update.
"""

from dataclasses import replace

from bytegolf.compression.grid import AbsMax, Grid
from bytegolf.compression.spec import Compression, FixedBits, Noise
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.stack import Block
from bytegolf.recipes.baseline import RECIPE as BASELINE
from bytegolf.tokens.spec import SentencePiece

LAYER = Block(
    mixer=Attention(heads=12, key_value_heads=6, query_gain=1.5),
    mlp=SquaredMlp(hidden=2048),
)

RECIPE = replace(
    BASELINE,
    name="looped_noisy",
    tokens=SentencePiece(vocabulary=1024),
    model=replace(
        BASELINE.model, width=768, layers=(LAYER,) * 3, loop=Loop(first=0, last=2, passes=3), skips=False
    ),
    training=replace(BASELINE.training, forward_rows=128),
    compression=Compression(
        plan=FixedBits(Grid(8, AbsMax())), budget_bytes=15_830_000, noise=Noise(start=0.0, looped_only=True)
    ),
)
