"""Piece tables come from artifacts, which anyone can write: nothing in them is trusted."""

import struct

import brotli
import pytest

from bytegolf.errors import TokenizerError
from bytegolf.text.documents import Document
from bytegolf.tokens.sentence_pieces import SentencePieceTokenizer
from bytegolf.tokens.table import (
    MAGIC,
    MAX_PIECES,
    MAX_TABLE_BYTES,
    compress_table,
    decompress_table,
    pack_pieces,
    pack_table,
    unpack_table,
)
from bytegolf.tokens.tokenizer import ByteTokenizer, tokenizer_from_bytes, train_sentencepiece


@pytest.fixture(scope="module")
def good() -> tuple[dict, dict]:
    """Settings and columns of a sound SentencePiece table."""
    tokenizer = train_sentencepiece([Document("a few words of text, a few more words " * 5, "a")], 275)
    return unpack_table(decompress_table(tokenizer.to_bytes()))


def load(settings: dict, columns: dict):
    return tokenizer_from_bytes(compress_table(pack_table(settings, columns)))


def test_the_sound_table_loads(good):
    assert isinstance(load(*good), SentencePieceTokenizer)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "sentences"},
        {"kind": None},
        {"kind": ["bytes"]},
        {"bos": None},
        {"bos": 10**30},
        {"bos": -1},
        {"bos": 5},
        {"bos": True},
        {"normalizer": None},
        {"normalizer": "identity"},
        {"normalizer": {"rule": "../../../etc/passwd"}},
        {"normalizer": {"rule": "nfkc", "sha256": "0"}},
        {"normalizer": {"rule": "nfkc", "changed": [["a"]]}},
        {"normalizer": {"rule": "nfkc", "changed": [["\ud800", "a"]]}},
        {"normalizer": {"sha256": "\ud800"}},
        {"normalizer": {"rule": 5}},
        {"normalizer": {"surprise": 1}},
    ],
)
def test_settings_that_make_no_sense_are_refused(good, changes):
    settings, columns = good
    table = pack_table({**settings, **{k: v for k, v in changes.items() if k != "normalizer"}}, columns)
    if "normalizer" in changes:
        import json

        header = {**settings, **changes, "columns": {name: len(column) for name, column in columns.items()}}
        encoded = json.dumps(header).encode()
        table = struct.pack("<I", len(encoded)) + encoded + b"".join(columns[name] for name in columns)
    with pytest.raises(TokenizerError) as caught:
        tokenizer_from_bytes(compress_table(table))
    assert "\n" not in str(caught.value)


def renamed(columns: dict, index: int, name: bytes) -> dict:
    pieces, position = [], 0
    for length in columns["lengths"]:
        pieces.append(columns["pieces"][position : position + length])
        position += length
    pieces[index] = name
    return columns | pack_pieces(tuple(pieces))


@pytest.mark.parametrize(
    "change",
    [
        lambda columns: columns | {"types": columns["types"][:-1]},
        lambda columns: columns | {"types": columns["types"] + b"\1"},
        lambda columns: columns | {"types": bytes(len(columns["types"]))},
        lambda columns: columns | {"types": columns["types"][:2] + b"\1" + columns["types"][3:]},
        lambda columns: columns | {"types": b"\3" + columns["types"][1:]},
        lambda columns: columns | {"lengths": columns["lengths"][:-1]},
        lambda columns: columns | {"pieces": columns["pieces"] + b"x"},
        lambda columns: {},
        lambda columns: renamed(columns, -2, b""),
        lambda columns: renamed(columns, -2, b"\xff"),
        lambda columns: renamed(columns, -2, columns["pieces"][-3:]),
        lambda columns: renamed(columns, -1, b"no space left"),
    ],
)
def test_columns_that_make_no_sense_are_refused(good, change):
    settings, columns = good
    with pytest.raises(TokenizerError) as caught:
        load(settings, change(columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\0",
        struct.pack("<I", 1 << 31),
        struct.pack("<I", 2) + b"[]",
        struct.pack("<I", 2) + b"{}",
        struct.pack("<I", 13) + b'{"columns":1}',
        struct.pack("<I", 20) + b'{"columns":{"a":-1}}',
        struct.pack("<I", 24) + b'{"columns":{"a":999999}}',
        struct.pack("<I", 20) + b'{"columns":{"a":"1"}',
        struct.pack("<I", 100_000) + b"[" * 100_000,
    ],
)
def test_malformed_headers_are_refused(table):
    with pytest.raises(TokenizerError, match=r"damaged|cut short"):
        tokenizer_from_bytes(compress_table(table))


def test_a_table_that_would_fill_the_memory_is_refused():
    bomb = MAGIC + brotli.compress(bytes(40 * MAX_TABLE_BYTES), quality=1)
    assert len(bomb) < 200_000
    with pytest.raises(TokenizerError, match=f"larger than {MAX_TABLE_BYTES}"):
        tokenizer_from_bytes(bomb)


def test_more_pieces_than_ids_are_refused(good):
    settings, _ = good
    columns = {"types": bytes(MAX_PIECES + 1), "lengths": bytes(MAX_PIECES + 1), "pieces": b""}
    with pytest.raises(TokenizerError, match=f"at most {MAX_PIECES}"):
        load(settings, columns)


def test_every_cut_of_a_table_is_refused(good):
    whole = compress_table(pack_table(*good))
    for length in range(len(whole)):
        with pytest.raises(TokenizerError):
            tokenizer_from_bytes(whole[:length])


def test_another_kind_of_file_is_refused():
    with pytest.raises(TokenizerError, match="another kind of file"):
        tokenizer_from_bytes(b"PK\3\4 something else")


def test_bytes_behind_a_table_are_refused():
    with pytest.raises(TokenizerError):
        tokenizer_from_bytes(ByteTokenizer().to_bytes() + b"\0")
