"""A hundred million weights of one bit.

Published: 1.1239 bits per byte after 50,000 steps (2.15 hours on 8 H100, unlimited track of the 16 MB
challenge, #641: FineWeb, vocabulary 8,192, 15 layers, 106.2 M weights with a head of zeros, 15,670,651
bytes); 1.1824 with 14 layers in ten minutes. Measured here on Wikipedia, one H200, 60 s, 65,536 tokens a step
(`benchmarks/results/binary-unet-h200`): 1.4141 sliding (1,024 by 64), 1.4403 in chunks, 14,526,573 bytes.

Here: `ternary_unet` with 15 layers of signs. #641 also mixes the mean of all earlier tokens into each block
("SmearModule", 22 ms a step for 0.007 after 1,000 steps), which is left out.
"""

from dataclasses import replace

from bytegolf.compression.spec import FixedBits
from bytegolf.compression.ternary import Binary
from bytegolf.recipes.ternary_unet import EIGHT_BIT_FLOATS, LAYER
from bytegolf.recipes.ternary_unet import RECIPE as TERNARY

RECIPE = replace(
    TERNARY,
    name="binary_unet",
    model=replace(TERNARY.model, layers=(LAYER,) * 15),
    training=replace(TERNARY.training, forward_rows=32),
    compression=replace(TERNARY.compression, plan=FixedBits(Binary(group=128), exceptions=EIGHT_BIT_FLOATS)),
)
