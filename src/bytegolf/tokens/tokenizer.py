"""Tokenizers: text to ids and back, exactly.

Every id stands for a fixed number of bytes. They are the same bytes wherever the id stands, and decoding
concatenates them; only where markers say what is a capital (`text.casing`), the case of ASCII letters
depends on the ids before. A lossless tokenizer encodes any bytes at all; a lossy one (the 16 MB challenge's
SentencePiece models) changes the text first and is marked so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from bytegolf.errors import TokenizerError
from bytegolf.tokens.gpt2 import gpt2_from_table, load_gpt2
from bytegolf.tokens.raw_bytes import ByteTokenizer
from bytegolf.tokens.sentence_pieces import KINDS, SentencePieceTokenizer, load_model, pieces_from_table
from bytegolf.tokens.table import decompress_table, unpack_table
from bytegolf.tokens.training import train_sentencepiece

__all__ = [
    "ByteTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "text_ids",
    "tokenizer_from_bytes",
    "train_sentencepiece",
]


class Tokenizer(Protocol):
    """What the rest of the package needs of a tokenizer.

    `vocabulary` is the number of ids. `bos` starts every document, and so ends the one before it; it stands
    for 0 bytes and is never the result of encoding. `token_bytes` holds the bytes of each id, without the
    capitals that markers make of them. `markers` are the ids of these, which stand for 0 bytes; most
    tokenizers have none.
    """

    kind: str
    vocabulary: int
    bos: int
    lossless: bool
    token_bytes: tuple[bytes, ...]
    markers: tuple[int, ...]

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 (tokens,): the ids of `text`, without bos. Bytes need not be valid UTF-8."""
        ...

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of `ids`, any ids at all: as many as `token_bytes` has for them."""
        ...

    def decoder(self) -> Callable[[int], bytes]:
        """Decodes one id a call, in its place behind those of the calls before, into as many bytes."""
        ...

    def to_bytes(self) -> bytes:
        """A compressed table from which `tokenizer_from_bytes` builds the same tokenizer."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the uncompressed table: equal tokenizers have equal digests."""
        ...


def text_ids(tokenizer: Tokenizer) -> np.ndarray:
    """bool (vocabulary,): the ids that make up texts, which are those with bytes and the markers."""
    of_text = np.array([bool(piece) for piece in tokenizer.token_bytes])
    of_text[list(tokenizer.markers)] = True
    return of_text


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """The tokenizer that `to_bytes` described. Damaged or hostile data is a `TokenizerError`."""
    settings, columns = unpack_table(decompress_table(data))
    match settings.get("kind"):
        case "bytes":
            return ByteTokenizer()
        case kind if kind in KINDS.values():
            return SentencePieceTokenizer(pieces_from_table(settings, columns))
        case "gpt2":
            return gpt2_from_table(columns)
        case kind:
            raise TokenizerError(f"tokenizer table is of unknown kind {kind!r}; update bytegolf")


def load_tokenizer(source: str) -> Tokenizer:
    """The tokenizer that `source` names.

    "bytes"; a SentencePiece `.model` file; a folder with GPT-2's encoder.json and vocab.bpe; or a table
    saved from `to_bytes` as `*.tokenizer`.
    """
    if source == "bytes":
        return ByteTokenizer()
    path = Path(source)
    try:
        if path.suffix == ".model":
            return load_model(path)
        if path.is_dir():
            return load_gpt2(path)
        return tokenizer_from_bytes(path.read_bytes())
    except OSError as error:
        raise TokenizerError(
            f"tokenizer {source!r} cannot be read ({error.strerror}); give 'bytes', a .model file, "
            "a folder with encoder.json and vocab.bpe, or a saved *.tokenizer"
        ) from error
