"""Hashed bigram embeddings: each pair of neighbouring tokens looks up a row of a small table.

Shapes: B rows, T tokens, D width, W width of the table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.embedding import Table
from bytegolf.model.initialization import normal_start
from bytegolf.model.linear import Linear
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

_KEY = "bigram"


def _check_sizes(buckets: int, width: int) -> None:
    if buckets < 2:
        raise RecipeError(f"buckets={buckets}; give the number of rows of the bigram table, such as 4096")
    if width < 1:
        raise RecipeError(f"width={width} of a bigram table; give the number of its columns, such as 128")


@dataclass(frozen=True)
class BigramSum:
    """P table[(multiplier · previous + current) mod buckets] is added to the embedding.

    The 16 MB challenge's first form; #363 has multiplier 1,000,003. A document's first token has 0 for
    its previous. The table starts normal with deviation `deviation`, P at zero.
    """

    buckets: int = 4096
    width: int = 128
    multiplier: int = 92_821
    deviation: float = 0.01

    def __post_init__(self) -> None:
        _check_sizes(self.buckets, self.width)
        if self.multiplier < 1:
            raise RecipeError(
                f"multiplier={self.multiplier}; give a prime larger than buckets={self.buckets}"
            )
        if self.deviation <= 0:
            raise RecipeError(f"deviation={self.deviation}; table and projection both at zero never learn")

    def build(self, width: int) -> "BigramLayer":
        layer = BigramLayer(self, width, normal_start(self.buckets, self.width, self.deviation), scale=None)
        torch.nn.init.zeros_(layer.projection.weight)
        return layer

    def bucket(self, ids_BT: Tensor, previous_BT: Tensor) -> Tensor:
        """The table's row for each pair, int64 (B, T); `previous_BT` is −1 where a document begins."""
        return (previous_BT.clamp(min=0) * self.multiplier + ids_BT) % self.buckets


@dataclass(frozen=True)
class BigramXor:
    """s · P table[(36313 · current xor 27191 · previous) mod (buckets − 1)] is added to the embedding.

    The 16 MB challenge's second form. A document's first token has the last bucket to itself. The table
    starts at zero, P as any projection does, the learned number s at `scale`.
    """

    buckets: int = 4096
    width: int = 128
    scale: float = 0.05

    def __post_init__(self) -> None:
        _check_sizes(self.buckets, self.width)
        if self.scale == 0:
            raise RecipeError("scale=0.0; table and scale both at zero never learn")

    def build(self, width: int) -> "BigramLayer":
        return BigramLayer(self, width, torch.zeros(self.buckets, self.width), scale=self.scale)

    def bucket(self, ids_BT: Tensor, previous_BT: Tensor) -> Tensor:
        """The table's row for each pair, int64 (B, T); `previous_BT` is −1 where a document begins."""
        mixed_BT = (ids_BT * 36_313) ^ (previous_BT * 27_191)
        return torch.where(previous_BT < 0, self.buckets - 1, mixed_BT % (self.buckets - 1))


Bigram = BigramSum | BigramXor


class BigramLayer(Component):
    """What is added to the embedded ids, (B, T, D)."""

    def __init__(self, spec: Bigram, width: int, table: Tensor, *, scale: float | None) -> None:
        super().__init__()
        self.spec = spec
        self.table = Table(table, Role.BIGRAM)
        self.projection = Linear(spec.width, width, Role.EMBEDDING_PROJECTION)
        start = None if scale is None else torch.full((1,), scale)
        self.scale_1 = None if start is None else self.parameter("scale_1", start, Role.SCALAR)

    def forward(self, ids_BT: Tensor, stream: Stream, dtype: torch.dtype) -> Tensor:
        # One more than the id, so that "none" and id 0 differ.
        previous_BT = stream.earlier(_KEY, ids_BT + 1) - 1
        y_BTD = self.projection(self.table(self.spec.bucket(ids_BT, previous_BT)).to(dtype))
        return y_BTD if self.scale_1 is None else self.scale_1.to(dtype) * y_BTD
