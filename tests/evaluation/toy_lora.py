"""A small network, and documents of many lengths for adapters to learn from."""

from typing import Any

import numpy as np
import torch

from bytegolf.evaluation.bits import token_stream
from bytegolf.evaluation.legality import Session
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tokens.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
CAT, DOG = "the cat sat on the mat. ", "a dog did, too, and left. "
TEXTS = [CAT * 5, "short", DOG * 3, "x" * 39, CAT * 5, "", DOG * 2, "y" * 31]
IDS, STARTS = token_stream(BYTES, TEXTS)
SPANS = list(zip(STARTS.tolist(), [*STARTS[1:].tolist(), len(IDS) - 1], strict=True))
BLOCK = Block(Attention(2, 1), SquaredMlp(16))


def untrained(**settings: Any) -> LanguageModel:
    """In float32, with the weights that training begins with."""
    torch.manual_seed(0)
    chosen = {"layers": (BLOCK,) * 2} | settings
    return Model(width=16, embedding=TiedEmbedding(0.3), vocabulary=BYTES.vocabulary, **chosen).build()


def network(**settings: Any) -> LanguageModel:
    """In float64, with no weight at zero."""
    model = untrained(**settings).double()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


class Watched(Session):
    """A session that remembers what it gave away to learn from, and how much was scored by then."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.released: list[tuple[int, int]] = []
        self.scored_by_then: list[int] = []

    def release(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.released.append((first, stop))
        self.scored_by_then.append(self.scored)
        return super().release(first, stop)
