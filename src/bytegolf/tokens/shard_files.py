"""Shard files in the 16 MB challenge's format.

256 little-endian int32: magic 20240520, version 1, number of tokens, zeros; then the tokens as little-endian
uint16. Every document begins with bos.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.files import atomic_writer

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
MAX_VOCABULARY = 65_536
SHARD_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document as it lies in a shard: uint16 tokens with bos in front, and the bytes they stand for."""

    tokens: np.ndarray
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """What one shard file holds."""

    file: str
    tokens: int
    documents: int
    bytes: int


def write_shards(
    folder: Path, prefix: str, documents: Iterator[TokenizedDocument], shard_tokens: int = SHARD_TOKENS
) -> list[ShardCounts]:
    """Writes `prefix`_000000.bin and so on. A shard ends with the document that fills it."""
    shards: list[ShardCounts] = []
    document = next(documents, None)
    while document is not None:
        name = f"{prefix}_{len(shards):06}.bin"
        tokens = count = text_bytes = 0
        with atomic_writer(folder / name) as file:
            file.write(bytes(HEADER_BYTES))
            while document is not None and (count == 0 or tokens < shard_tokens):
                file.write(document.tokens.astype("<u2", copy=False).tobytes())
                tokens += len(document.tokens)
                count += 1
                text_bytes += document.bytes
                document = next(documents, None)
            file.seek(0)
            file.write(_header(tokens))
        shards.append(ShardCounts(name, tokens, count, text_bytes))
    return shards


def map_shard(path: Path) -> np.ndarray:
    """uint16 (tokens,) of a shard, memory-mapped. A file of another kind or length is a `ShardError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), dtype="<i4")
    except (OSError, ValueError) as error:
        raise ShardError(f"shard {path} cannot be read ({error}); prepare the text again") from error
    if len(header) < HEADER_BYTES // 4 or header[0] != MAGIC or header[1] != VERSION:
        raise ShardError(f"{path} is no token shard of version {VERSION}; prepare the text again")
    tokens = int(header[2])
    expected = HEADER_BYTES + 2 * tokens
    if tokens < 1 or size != expected:
        raise ShardError(
            f"shard {path} is {size} bytes long, not {expected}: it was cut short; prepare the text again"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(tokens,)).view(np.ndarray)


def _header(tokens: int) -> bytes:
    if tokens >= 1 << 31:
        raise ShardError(f"a document of {tokens} tokens does not fit a shard; cut the text into documents")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()
