"""Token embedding whose table is also the output head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.linear import Weight
from bytegolf.model.roles import Role


@dataclass(frozen=True)
class TiedEmbedding:
    """One table (vocabulary, width) for input and output; entries start normal with deviation `deviation`."""

    deviation: float = 0.005

    def __post_init__(self) -> None:
        if self.deviation <= 0:
            raise RecipeError(f"deviation={self.deviation}; a tied embedding must start above zero")

    def build(self, vocabulary: int, width: int) -> "TiedEmbeddingLayer":
        return TiedEmbeddingLayer(self, vocabulary, width)


class TiedEmbeddingLayer(Weight):
    """ids (B, T) -> rows of the table (B, T, width)."""

    def __init__(self, spec: TiedEmbedding, vocabulary: int, width: int) -> None:
        super().__init__(torch.randn(vocabulary, width) * spec.deviation, Role.EMBEDDING)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids_BT, self.used_weight())
