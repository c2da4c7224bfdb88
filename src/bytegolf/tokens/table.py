"""The piece table: a tokenizer as the bytes that an artifact carries.

Layout: `MAGIC`, then brotli of (uint32 little-endian header length, JSON header, columns back
to back, by name).
The header holds the settings of the tokenizer's kind and, under "columns", the length of each column.
A digest is taken over the uncompressed table, so that it does not depend on the compressor's version.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import brotli
import numpy as np

from bytegolf.errors import TokenizerError
from bytegolf.tokens.bytes_text import look_up

MAGIC = b"BGT1"
MAX_TABLE_BYTES = 16_000_000
MAX_HEADER_BYTES = 1_000_000
MAX_PIECES = 65_536
MAX_PIECE_BYTES = 255


def pack_table(settings: Mapping[str, Any], columns: Mapping[str, bytes]) -> bytes:
    """The uncompressed table of JSON-able `settings` and named byte columns."""
    header = {**settings, "columns": {name: len(column) for name, column in columns.items()}}
    encoded = json.dumps(header, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return struct.pack("<I", len(encoded)) + encoded + b"".join(columns[name] for name in sorted(columns))


def unpack_table(table: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Settings and columns of an uncompressed table; `TokenizerError` if it is malformed."""
    if len(table) < 4:
        raise TokenizerError(f"tokenizer table is {len(table)} bytes long; it is cut short")
    (header_bytes,) = struct.unpack_from("<I", table)
    if header_bytes > min(MAX_HEADER_BYTES, len(table) - 4):
        raise TokenizerError(f"tokenizer table claims a header of {header_bytes} bytes; it is damaged")
    try:
        header = json.loads(table[4 : 4 + header_bytes].decode())
        # Escaped lone surrogates parse, but no table with them can be written again.
        json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise TokenizerError("tokenizer table has an unreadable header; it is damaged") from error
    lengths = header.pop("columns", None) if isinstance(header, dict) else None
    if not isinstance(lengths, dict) or not all(type(n) is int and n >= 0 for n in lengths.values()):
        raise TokenizerError("tokenizer table has no list of columns; it is damaged")
    if 4 + header_bytes + sum(lengths.values()) != len(table):
        raise TokenizerError("tokenizer table's columns do not add up to its length; it is damaged")
    columns, position = {}, 4 + header_bytes
    for name, length in lengths.items():
        columns[name] = table[position : position + length]
        position += length
    return header, columns


def compress_table(table: bytes) -> bytes:
    """The bytes that go into a file or an artifact."""
    return MAGIC + brotli.compress(table, quality=11)


def decompress_table(data: bytes) -> bytes:
    """The uncompressed table; at most `MAX_TABLE_BYTES` are ever produced."""
    if not data.startswith(MAGIC):
        raise TokenizerError(
            f"tokenizer table starts with {data[:4]!r}, not {MAGIC!r}; it is another kind of file"
        )
    try:
        decoder = brotli.Decompressor()
        pieces = [decoder.process(data[len(MAGIC) :], output_buffer_limit=1 << 20)]
        total = len(pieces[0])
        while not decoder.is_finished() and pieces[-1] and total <= MAX_TABLE_BYTES:
            pieces.append(decoder.process(b"", output_buffer_limit=1 << 20))
            total += len(pieces[-1])
    except brotli.error as error:
        raise TokenizerError("tokenizer table cannot be decompressed; it is damaged") from error
    if total > MAX_TABLE_BYTES:
        raise TokenizerError(f"tokenizer table is larger than {MAX_TABLE_BYTES} bytes; it is damaged")
    if not decoder.is_finished():
        raise TokenizerError("tokenizer table is cut short")
    return b"".join(pieces)


def table_digest(table: bytes) -> str:
    """SHA-256 of an uncompressed table, in hexadecimal."""
    return hashlib.sha256(table).hexdigest()


def pack_pieces(pieces: tuple[bytes, ...]) -> dict[str, bytes]:
    """Columns "lengths" (one byte each) and "pieces" (concatenated)."""
    longest = max(pieces, key=len, default=b"")
    if len(longest) > MAX_PIECE_BYTES:
        raise TokenizerError(
            f"piece {longest[:20]!r}… is {len(longest)} bytes long; at most {MAX_PIECE_BYTES} fit"
        )
    return {"lengths": bytes(map(len, pieces)), "pieces": b"".join(pieces)}


def unpack_pieces(columns: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """The pieces of `pack_pieces`."""
    lengths, joined = columns.get("lengths", b""), columns.get("pieces", b"")
    if sum(lengths) != len(joined):
        raise TokenizerError("tokenizer table's pieces do not add up to their lengths; it is damaged")
    if len(lengths) > MAX_PIECES:
        raise TokenizerError(f"tokenizer table has {len(lengths)} pieces; at most {MAX_PIECES} are possible")
    pieces, position = [], 0
    for length in lengths:
        pieces.append(joined[position : position + length])
        position += length
    return tuple(pieces)


class TableTokenizer:
    """What tokenizers share whose ids stand for fixed bytes: decoding, and their table."""

    token_bytes: tuple[bytes, ...]
    markers: tuple[int, ...] = ()

    def table(self) -> bytes:
        """The uncompressed table from which the same tokenizer is built."""
        raise NotImplementedError

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes that `ids` stand for, concatenated."""
        return b"".join(look_up(self.token_bytes, ids))

    def decoder(self) -> Callable[[int], bytes]:
        """The bytes of one id after another; here always the same ones."""
        return self.token_bytes.__getitem__

    def to_bytes(self) -> bytes:
        """The compressed table."""
        return compress_table(self.table())

    @property
    def digest(self) -> str:
        """SHA-256 of the uncompressed table."""
        return table_digest(self.table())
