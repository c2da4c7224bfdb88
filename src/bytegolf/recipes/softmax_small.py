"""The twin of `friction_small`: a softmax and rotary positions, and all else imported from there.

What both have got to in the same seconds differs by the mixer alone, whose speed counts too. It has as many
weights, and the query gain of 1.5 that all recipes with a softmax start with.
"""

from dataclasses import replace

from bytegolf.model.attention import Attention
from bytegolf.recipes.friction_small import LAYER as FRICTION_LAYER
from bytegolf.recipes.friction_small import RECIPE as FRICTION_SMALL

LAYER = replace(FRICTION_LAYER, mixer=Attention(heads=8, key_value_heads=8, query_gain=1.5))

RECIPE = replace(
    FRICTION_SMALL,
    name="softmax_small",
    model=replace(FRICTION_SMALL.model, layers=(LAYER,) * len(FRICTION_SMALL.model.layers)),
)
