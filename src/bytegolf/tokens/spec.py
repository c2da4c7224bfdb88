"""The tokenizer of a recipe."""

from collections.abc import Iterable
from dataclasses import dataclass

from bytegolf.errors import RecipeError
from bytegolf.text.casing import Casing
from bytegolf.text.documents import Document
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from bytegolf.tokens.training import MAX_VOCABULARY, MIN_VOCABULARY


@dataclass(frozen=True)
class Bytes:
    """Every byte is a token."""


@dataclass(frozen=True)
class SentencePiece:
    """A lossless SentencePiece BPE tokenizer, trained on the training text alone."""

    vocabulary: int = 1024
    sample_bytes: int = 8_000_000
    """How much text to look at."""
    casing: Casing = False
    """Capitals become markers of their own, and words are written in one way; see `text.casing`.
    before_space: the marker stands before a space in front of the word, which leaves " the" one piece."""

    def __post_init__(self) -> None:
        if not MIN_VOCABULARY <= self.vocabulary <= MAX_VOCABULARY:
            raise RecipeError(f"vocabulary is {self.vocabulary}; choose {MIN_VOCABULARY} to {MAX_VOCABULARY}")
        if self.sample_bytes < 1:
            raise RecipeError(f"sample_bytes is {self.sample_bytes}; choose a size such as 8000000")
        if self.casing not in (False, True, "before_space"):
            raise RecipeError(f"casing is {self.casing!r}; choose False, True or 'before_space'")


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer from a file or folder; see `load_tokenizer`.

    A `.model` with the four markers of `text.casing` among its user-defined pieces gets text with marked
    capitals, a saved table what it was saved with.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path:
            raise RecipeError("path is empty; name a .model file, a *.tokenizer file or a folder")


Tokens = Bytes | SentencePiece | TokenizerFile


def build_tokenizer(spec: Tokens, documents: Iterable[Document]) -> Tokenizer:
    """The tokenizer that `spec` asks for; `documents` is the training text."""
    match spec:
        case Bytes():
            return ByteTokenizer()
        case SentencePiece():
            return train_sentencepiece(
                documents, spec.vocabulary, casing=spec.casing, sample_bytes=spec.sample_bytes
            )
        case TokenizerFile():
            return load_tokenizer(spec.path)
