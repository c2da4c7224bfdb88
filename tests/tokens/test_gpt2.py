"""GPT-2's tokenizer from its two files."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import TokenizerError
from bytegolf.tokens.gpt2 import Gpt2Tokenizer
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.table import compress_table, pack_pieces, pack_table
from bytegolf.tokens.tokenizer import load_tokenizer, tokenizer_from_bytes

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "tokenizers" / "gpt2"
MERGES = ["h e", "l l", "he ll", "Ġ w", "hell o", "Ã ©"]


def write_files(folder: Path, merges: list[str], extra: dict | None = None) -> Path:
    """A folder in GPT-2's format: bytes in their published order, then the merges, then bos."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    names = [*map(chr, printable), *(chr(256 + rank) for rank in range(len(others)))]
    names += [merge.replace(" ", "") for merge in merges]
    ids = {name: rank for rank, name in enumerate([*names, "<|endoftext|>"])}
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "encoder.json").write_text(json.dumps(ids | (extra or {})), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return load_tokenizer(str(write_files(tmp_path_factory.mktemp("gpt2"), MERGES)))


def test_merges_apply_in_order(small):
    pieces = [small.token_bytes[token] for token in small.encode("hello hell world é")]
    assert pieces == [b"hello", b" ", b"hell", b" w", b"o", b"r", b"l", b"d", b" ", "é".encode()]


def test_the_vocabulary_is_bytes_merges_and_bos(small):
    assert (small.vocabulary, small.bos, small.lossless, small.kind) == (263, 262, True, "gpt2")
    assert small.token_bytes[small.bos] == b""


@settings(max_examples=150, deadline=None)
@given(data=st.one_of(st.binary(), st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)))
def test_decoding_restores_any_bytes_and_the_ledger_counts_them(small, data):
    ids = small.encode(data)
    assert small.decode(ids) == data
    assert byte_counts(small, ids, None).sum() == len(data)
    np.testing.assert_array_equal(tokenizer_from_bytes(small.to_bytes()).encode(data), ids)


def test_the_name_of_bos_in_a_text_is_text(small):
    ids = small.encode("<|endoftext|>")
    assert small.bos not in ids
    assert small.decode(ids) == b"<|endoftext|>"


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match="do not belong together"):
        load_tokenizer(str(write_files(tmp_path, MERGES, {"he": 999})))


@pytest.mark.parametrize("name", ["vocab.bpe", "encoder.json"])
@pytest.mark.parametrize("content", [b"\xff", b"\n{[\n"])
def test_damaged_files_are_refused(tmp_path, name, content):
    write_files(tmp_path, MERGES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(str(tmp_path))


def test_without_its_package_the_extra_is_named(tmp_path, monkeypatch):
    write_files(tmp_path, MERGES)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(TokenizerError, match=r"pip install 'bytegolf\[gpt2\]'"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("pieces", [(), (b"a",) * 300, tuple(bytes([v, v]) for v in range(256))])
def test_tables_without_the_bytes_are_refused(pieces):
    data = compress_table(pack_table({"kind": "gpt2"}, pack_pieces(pieces)))
    with pytest.raises(TokenizerError, match="damaged"):
        tokenizer_from_bytes(data)


@functools.cache
def published() -> Gpt2Tokenizer:
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED} is not here")
    tokenizer = load_tokenizer(str(PUBLISHED))
    assert isinstance(tokenizer, Gpt2Tokenizer)
    return tokenizer


def test_the_published_files_give_the_published_ids():
    ids = published().encode("Hello world, it's 2024!\n\n  éa")
    assert (published().vocabulary, published().bos) == (50257, 50256)
    assert ids[:4].tolist() == [15496, 995, 11, 340]
    assert published().decode(ids).decode() == "Hello world, it's 2024!\n\n  éa"
