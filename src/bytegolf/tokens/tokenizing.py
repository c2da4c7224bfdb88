"""Documents to tokens, by one process or several, in order."""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import numpy as np

from bytegolf.text.documents import Document
from bytegolf.text.ngrams import Hashes, sketched_grams
from bytegolf.text.spread import spread
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.shard_files import TokenizedDocument
from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes

# Characters handed to a worker at once: enough to drown the cost of handing over, little enough to spread.
_CHUNK_CHARACTERS = 2_000_000

# Hashes of a sketch that wait until they are sorted in.
_SKETCH_WAITING = 1 << 20

# Of a process that was begun for this: built once.
_worker_tokenizer: Tokenizer | None = None

_Encoded = tuple[bytes, list[int], list[int], Hashes]


class Sketch:
    """The distinct sketched 13-grams of documents, in whatever order they come; 8 bytes for 64 words."""

    def __init__(self) -> None:
        self._hashes: Hashes = np.zeros(0, dtype=np.uint64)
        self._waiting: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        """Takes in some hashes, repeated or not."""
        self._waiting.append(hashes)
        if sum(map(len, self._waiting)) > _SKETCH_WAITING:
            self._merge()

    def to_bytes(self) -> bytes:
        """The hashes, ascending, as little-endian uint64."""
        self._merge()
        return self._hashes.astype("<u8", copy=False).tobytes()

    def _merge(self) -> None:
        self._hashes = np.unique(np.concatenate([self._hashes, *self._waiting]))
        self._waiting = []


def tokenize(
    documents: Iterable[Document], tokenizer: Tokenizer, processes: int, sketch: Sketch
) -> Iterator[TokenizedDocument]:
    """The documents as uint16 tokens with bos in front, in order; `sketch` takes in their 13-grams.

    `processes` > 1 spreads the work; at most two chunks a process wait in memory.
    """
    encode = functools.partial(_encode, tokenizer=tokenizer) if processes <= 1 else _encode_in_worker
    encoded = spread(
        encode, _chunks(documents), processes, begin=_keep_tokenizer, told=(tokenizer.to_bytes(),)
    )
    with contextlib.closing(encoded):
        for chunk in encoded:
            yield from _unpack(chunk, sketch)


def _chunks(documents: Iterable[Document]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for document in documents:
        chunk.append(document.text)
        characters += len(document.text)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode(texts: list[str], tokenizer: Tokenizer) -> _Encoded:
    bos = np.array([tokenizer.bos], dtype=np.uint16)
    parts, lengths, text_bytes = [], [], []
    for text in texts:
        ids = tokenizer.encode(text)
        count = int(byte_counts(tokenizer, ids, tokenizer.bos).sum())
        assert not tokenizer.lossless or count == len(text.encode()), "ledger and text disagree"
        parts += [bos, ids.astype(np.uint16)]
        lengths.append(len(ids) + 1)
        text_bytes.append(count)
    hashes, _ = sketched_grams([text.encode() for text in texts])
    return np.concatenate(parts).tobytes(), lengths, text_bytes, np.unique(hashes)


def _unpack(encoded: _Encoded, sketch: Sketch) -> Iterator[TokenizedDocument]:
    tokens, lengths, text_bytes, hashes = encoded
    sketch.add(hashes)
    flat = np.frombuffer(tokens, dtype=np.uint16)
    position = 0
    for length, count in zip(lengths, text_bytes, strict=True):
        yield TokenizedDocument(flat[position : position + length], count)
        position += length


def _keep_tokenizer(table: bytes) -> None:
    global _worker_tokenizer
    _worker_tokenizer = tokenizer_from_bytes(table)


def _encode_in_worker(texts: list[str]) -> _Encoded:
    assert _worker_tokenizer is not None
    return _encode(texts, _worker_tokenizer)
