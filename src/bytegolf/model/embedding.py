"""Token embeddings whose table is also the output head, in full width or through a narrower one.

Shapes: B rows, T tokens, D width, E width of the table, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.initialization import normal_start
from bytegolf.model.linear import Linear, Weight
from bytegolf.model.roles import Role


def _check_deviation(deviation: float) -> None:
    if deviation <= 0:
        raise RecipeError(f"deviation={deviation}; a tied embedding must start above zero")


@dataclass(frozen=True)
class TiedEmbedding:
    """One table (vocabulary, width) for input and output; entries start normal with deviation `deviation`.

    bias: also a learned number a token on the logits, before their cap, from zero. spectrum: the start's k-th
    singular value becomes the first one's times k^−spectrum ("overtone"; 0.5 in the 16 MB challenge); None
    leaves the table as drawn.
    """

    deviation: float = 0.005
    bias: bool = False
    spectrum: float | None = None

    def __post_init__(self) -> None:
        _check_deviation(self.deviation)
        if self.spectrum is not None and self.spectrum < 0:
            raise RecipeError(f"spectrum={self.spectrum}; give 0 or more, or None for a table as drawn")

    def build(self, vocabulary: int, width: int) -> "TiedEmbeddingLayer":
        return TiedEmbeddingLayer(self, vocabulary, width)


@dataclass(frozen=True)
class FactoredEmbedding:
    """A table (vocabulary, inner) for input and output, with a projection up behind it, one down before it.

    x = P_up E[i] and z = E P_down h (golf challenge #640): the table, the largest matrix of a small model,
    shrinks by inner / width. deviation, bias: as of `TiedEmbedding`.
    """

    inner: int = 256
    deviation: float = 0.005
    bias: bool = False

    def __post_init__(self) -> None:
        _check_deviation(self.deviation)
        if self.inner < 1:
            raise RecipeError(f"inner={self.inner}; give the width of the table, fewer than the model's")

    def build(self, vocabulary: int, width: int) -> "FactoredEmbeddingLayer":
        return FactoredEmbeddingLayer(self, vocabulary, width)


class Table(Weight):
    """ids (B, T) -> rows of the table (B, T, E)."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids_BT, self.used_weight())


class TiedEmbeddingLayer(Table):
    """`embed` gives the residual stream's input; logits are `head_input(h)` times the table plus `bias_V`."""

    def __init__(self, spec: TiedEmbedding, vocabulary: int, width: int) -> None:
        start_VD = normal_start(vocabulary, width, spec.deviation)
        if spec.spectrum is not None and not start_VD.is_meta:
            start_VD = with_spectrum(start_VD, spec.spectrum)
        super().__init__(start_VD, Role.EMBEDDING)
        self.bias_V = self.parameter("bias_V", torch.zeros(vocabulary), Role.SCALAR) if spec.bias else None

    def embed(self, ids_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedded ids (B, T, D) in `dtype`."""
        return self(ids_BT).to(dtype)

    def head_input(self, h: Tensor) -> Tensor:
        """What is multiplied with the table, (..., E), from hidden states (..., D)."""
        return h


class FactoredEmbeddingLayer(Table):
    """As `TiedEmbeddingLayer`, with a table narrower than the residual stream."""

    def __init__(self, spec: FactoredEmbedding, vocabulary: int, width: int) -> None:
        super().__init__(normal_start(vocabulary, spec.inner, spec.deviation), Role.EMBEDDING)
        self.up = Linear(spec.inner, width, Role.EMBEDDING_PROJECTION)
        self.down = Linear(width, spec.inner, Role.EMBEDDING_PROJECTION)
        self.bias_V = self.parameter("bias_V", torch.zeros(vocabulary), Role.SCALAR) if spec.bias else None

    def embed(self, ids_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedded ids (B, T, D) in `dtype`."""
        return self.up(self(ids_BT).to(dtype))

    def head_input(self, h: Tensor) -> Tensor:
        """What is multiplied with the table, (..., E), from hidden states (..., D)."""
        return self.down(h)


def with_spectrum(matrix_VD: Tensor, power: float) -> Tensor:
    """The matrix with its k-th singular value (k = 1 the largest) replaced by the first's times k^−power."""
    left_VK, values_K, right_KD = torch.linalg.svd(matrix_VD, full_matrices=False)
    ranks_K = torch.arange(1, len(values_K) + 1, dtype=matrix_VD.dtype)
    return left_VK @ ((values_K[0] * ranks_K**-power)[:, None] * right_KD)
