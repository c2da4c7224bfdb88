"""A second embedding of the tokens, added to the values of chosen attention layers.

Shapes: B rows, T tokens, X = key/value heads × head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.embedding import Table
from bytegolf.model.initialization import normal_start
from bytegolf.model.linear import Linear
from bytegolf.model.roles import Component, Role


@dataclass(frozen=True)
class ValueEmbedding:
    """s · P table[id], one for all attention layers with `shared_values`; each has a factor of its own.

    The 16 MB challenge's "VE128". width: columns of the table, which starts normal with deviation
    `deviation`. scale: where the learned number s starts.
    """

    width: int = 128
    deviation: float = 0.01
    scale: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise RecipeError(
                f"width={self.width} of a value embedding; give the number of its columns, such as 128"
            )
        if self.deviation <= 0:
            raise RecipeError(f"deviation={self.deviation} of a value embedding; give a positive number")
        if self.scale == 0:
            raise RecipeError("scale=0.0 of a value embedding; it would start without a gradient, give 0.1")

    def build(self, vocabulary: int, value_width: int) -> "ValueEmbeddingLayer":
        return ValueEmbeddingLayer(self, vocabulary, value_width)


class ValueEmbeddingLayer(Component):
    """ids (B, T) -> what is added to values, (B, T, X)."""

    def __init__(self, spec: ValueEmbedding, vocabulary: int, value_width: int) -> None:
        super().__init__()
        self.table = Table(normal_start(vocabulary, spec.width, spec.deviation), Role.VALUE_EMBEDDING)
        self.projection = Linear(spec.width, value_width, Role.EMBEDDING_PROJECTION)
        self.scale_1 = self.parameter("scale_1", torch.full((1,), spec.scale), Role.SCALAR)

    def forward(self, ids_BT: Tensor, dtype: torch.dtype) -> Tensor:
        return self.scale_1.to(dtype) * self.projection(self.table(ids_BT).to(dtype))
