"""The byte tokenizer: ids 0..255 are the bytes themselves, 256 starts a document."""

import numpy as np

from bytegolf.tokens.bytes_text import as_bytes, join_pieces
from bytegolf.tokens.table import compress_table, pack_table, table_digest


class ByteTokenizer:
    """One id a byte; nothing to learn, nothing to lose."""

    kind = "bytes"
    vocabulary = 257
    bos = 256
    lossless = True
    token_bytes: tuple[bytes, ...] = (*(bytes([value]) for value in range(256)), b"")

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 (tokens,): the bytes of `text`."""
        return np.frombuffer(as_bytes(text), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes that `ids` stand for."""
        return join_pieces(self.token_bytes, ids)

    def to_bytes(self) -> bytes:
        """The table: nothing but its kind."""
        return compress_table(self._table())

    @property
    def digest(self) -> str:
        """SHA-256 of the uncompressed table."""
        return table_digest(self._table())

    def _table(self) -> bytes:
        return pack_table({"kind": self.kind}, {})
