"""The byte tokenizer: ids 0..255 are the bytes themselves, 256 starts a document."""

import numpy as np

from bytegolf.tokens.bytes_text import as_bytes
from bytegolf.tokens.table import TableTokenizer, pack_table


class ByteTokenizer(TableTokenizer):
    """One id a byte; nothing to learn, nothing to lose."""

    kind = "bytes"
    vocabulary = 257
    bos = 256
    lossless = True
    token_bytes: tuple[bytes, ...] = (*(bytes([value]) for value in range(256)), b"")

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 (tokens,): the bytes of `text`."""
        return np.frombuffer(as_bytes(text), dtype=np.uint8).astype(np.int32)

    def table(self) -> bytes:
        return pack_table({"kind": self.kind}, {})
