"""One split's tokens, memory-mapped from its shards and read as one array."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.shard_files import map_shard
from bytegolf.tokens.tokenizer import Tokenizer

_SCAN_TOKENS = 1 << 24


def require_known_ids(path: Path, shard: np.ndarray, tokenizer: Tokenizer) -> None:
    """Raises `ShardError` if a shard (from `path`) holds an id that the tokenizer doesn't have."""
    for start in range(0, len(shard), _SCAN_TOKENS):
        largest = int(shard[start : start + _SCAN_TOKENS].max())
        if largest >= tokenizer.vocabulary:
            raise ShardError(
                f"shard {path} holds the id {largest}, outside the tokenizer's vocabulary of "
                f"{tokenizer.vocabulary}; use the tokenizer that wrote it"
            )


class TokenStore:
    """Documents, each bos and then its tokens, one behind another.

    `tokens` counts bos; `bytes` is the ledger's count of the text; `starts` int64 (documents,) are the
    ascending offsets of each document's bos.
    """

    def __init__(self, shards: Sequence[np.ndarray], *, bos: int, text_bytes: int) -> None:
        self._shards = [np.asarray(shard) for shard in shards]
        self._offsets = np.cumsum([0, *map(len, self._shards)], dtype=np.int64)
        self.tokens = int(self._offsets[-1])
        self.bytes = text_bytes
        self.starts = self._find(bos)
        self.documents = len(self.starts)
        if self.tokens and (not self.documents or self.starts[0] != 0):
            raise ShardError(
                f"the first token is not the id {bos} that starts a document; "
                "these shards begin inside a document or belong to another tokenizer"
            )

    @classmethod
    def from_files(cls, paths: Sequence[Path], tokenizer: Tokenizer) -> "TokenStore":
        """Shards without a manifest, such as the 16 MB challenge's own; the ledger counts their bytes."""
        shards = [map_shard(path) for path in paths]
        text_bytes = 0
        for path, shard in zip(paths, shards, strict=True):
            require_known_ids(path, shard, tokenizer)
            previous = None
            for start in range(0, len(shard), _SCAN_TOKENS):
                part = shard[start : start + _SCAN_TOKENS]
                text_bytes += int(byte_counts(tokenizer, part, previous).sum(dtype=np.int64))
                previous = int(part[-1])
        return cls(shards, bos=tokenizer.bos, text_bytes=text_bytes)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (documents,): tokens of each document, bos included."""
        return np.diff(self.starts, append=self.tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        """uint16 (stop - start,): a copy of these tokens, across shard borders."""
        out = np.empty(stop - start, dtype=np.uint16)
        self.copy(start, out)
        return out

    def copy(self, start: int, out: np.ndarray) -> None:
        """Fills `out` with the tokens from `start` on."""
        assert 0 <= start <= self.tokens - len(out), "read outside the store"
        index = int(np.searchsorted(self._offsets, start, side="right")) - 1 if len(self._shards) > 1 else 0
        done = 0
        while done < len(out):
            local = start + done - int(self._offsets[index])
            part = self._shards[index][local : local + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)
            index += 1

    def _find(self, bos: int) -> np.ndarray:
        found = [np.zeros(0, dtype=np.int64)]
        for offset, shard in zip(self._offsets, self._shards, strict=False):
            for start in range(0, len(shard), _SCAN_TOKENS):
                found.append(np.flatnonzero(shard[start : start + _SCAN_TOKENS] == bos) + (offset + start))
        return np.concatenate(found)
