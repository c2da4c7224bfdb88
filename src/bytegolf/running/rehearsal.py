"""Made-up tokens for a recipe: with them its network is compiled before its text has been read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bytegolf.recipe import Recipe
from bytegolf.tokens.shards import Prepared
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import ByteTokenizer, load_tokenizer

_DOCUMENT_TOKENS = 1000


class StandIn:
    """A tokenizer in nothing but its size: each of its ids is a letter, and the first begins documents."""

    kind = "stand-in"
    bos = 0
    lossless = True
    markers: tuple[int, ...] = ()
    digest = ""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.token_bytes: tuple[bytes, ...] = (b"", *[b"x"] * (vocabulary - 1))

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.ones(len(text), dtype=np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        return b"x" * len(ids)

    def decoder(self) -> Callable[[int], bytes]:
        return lambda token: b"x"

    def to_bytes(self) -> bytes:
        return b""


def expected_vocabulary(recipe: Recipe) -> int:
    """How many ids the recipe's tokenizer will have; one that is trained has as many as were asked for."""
    match recipe.tokens:
        case Bytes():
            return ByteTokenizer().vocabulary
        case SentencePiece():
            return recipe.tokens.vocabulary
        case TokenizerFile():
            return load_tokenizer(recipe.tokens.path).vocabulary


def stand_in_text(recipe: Recipe) -> Prepared:
    """One global batch of random tokens, in documents of a thousand, without a folder."""
    tokenizer = StandIn(expected_vocabulary(recipe))
    count = recipe.training.rows * recipe.training.length + 1
    ids = np.random.default_rng(0).integers(1, tokenizer.vocabulary, count, dtype=np.uint16)
    ids[::_DOCUMENT_TOKENS] = tokenizer.bos
    store = TokenStore([ids], bos=tokenizer.bos, text_bytes=count)
    return Prepared(Path(), tokenizer, training=store, validation=store, manifest={})
