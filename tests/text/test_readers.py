"""Readers: every format, every compression, exact text, errors that name file and line."""

import gzip
import json
import lzma
import sys
import types
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bytegolf.errors import TextError
from bytegolf.text.cutting import cut_text
from bytegolf.text.documents import Document
from bytegolf.text.readers import read_documents

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXT = "\ufeffFirst line\r\nsecond \u2028 line \x00\x85\n\n\u2581 élan\n"
texts = st.text(st.characters(exclude_categories=["Cs"]))


def read(*sources, **options) -> list[Document]:
    return list(read_documents([str(source) for source in sources], **options))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def jsonl(*rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a", "a.TXT"])
def test_plain_text_is_one_document_exactly_as_it_is(tmp_path, name, suffix):
    path = write(tmp_path / (name + suffix), COMPRESS[suffix](TEXT.encode()))
    assert read(path) == [Document(TEXT, name + suffix)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_each_line_of_jsonl_is_a_document(tmp_path, suffix):
    rows = [{"text": TEXT, "id": "one"}, {"text": "two"}, {"id": 7, "text": "three", "more": [1]}]
    path = write(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](jsonl(*rows) + b"\n"))
    assert read(path) == [
        Document(TEXT, "one"),
        Document("two", f"a.jsonl{suffix}:2"),
        Document("three", "7"),
    ]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_each_row_of_parquet_is_a_document(tmp_path, suffix):
    table = tmp_path / "table"
    parquet.write_table(pyarrow.table({"body": [TEXT, "two"], "id": ["x", "y"], "n": [1, 2]}), table)
    path = write(tmp_path / f"a.parquet{suffix}", COMPRESS[suffix](table.read_bytes()))
    assert read(path, field="body") == [Document(TEXT, "x"), Document("two", "y")]


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path):
    frames = [COMPRESS[".zst"](part) for part in (b"one ", b"two")]
    assert read(write(tmp_path / "a.txt.zst", b"".join(frames)))[0].text == "one two"


def test_a_folder_is_read_recursively_in_order_without_hidden_and_binary_files(tmp_path):
    write(tmp_path / "b.txt", b"b")
    write(tmp_path / "a" / "z.jsonl", jsonl({"text": "z"}))
    write(tmp_path / "a" / "y.txt.gz", gzip.compress(b"y"))
    write(tmp_path / "picture.png", b"\x89PNG\0\0")
    write(tmp_path / ".git" / "config", b"hidden")
    assert [(d.id, d.text) for d in read(tmp_path)] == [
        ("a/y.txt.gz", "y"),
        ("a/z.jsonl:1", "z"),
        ("b.txt", "b"),
    ]


def test_a_pattern_names_its_matches_in_order(tmp_path):
    for name in ("2.txt", "1.txt", "3.md"):
        write(tmp_path / name, name.encode())
    assert [document.id for document in read(tmp_path / "*.txt")] == ["1.txt", "2.txt"]


def test_repeated_ids_are_numbered_and_empty_documents_dropped(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(*({"text": t, "id": "i"} for t in ("x", "", "y", "z"))))
    assert [(d.id, d.text) for d in read(path)] == [("i", "x"), ("i (2)", "y"), ("i (3)", "z")]


def test_several_sources_follow_one_another(tmp_path):
    first, second = write(tmp_path / "1.txt", b"1"), write(tmp_path / "2.txt", b"2")
    assert [document.text for document in read(second, first)] == ["2", "1"]


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(texts, st.text("ab \n")), size=st.integers(1, 40))
def test_cutting_loses_nothing_and_keeps_to_the_size(text, size):
    pieces = cut_text(text, size)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= size or len(piece) == 1 for piece in pieces)
    assert all(pieces)


def test_cuts_fall_behind_paragraphs_then_lines_then_words():
    assert cut_text("One.\n\nTwo.\nThree.\n\nFour", 13) == ["One.\n\n", "Two.\nThree.\n\n", "Four"]
    assert cut_text("Two.\nThree.\n\nFour", 11) == ["Two.\n", "Three.\n\n", "Four"]
    assert cut_text("some words here", 7) == ["some ", "words ", "here"]


def test_cut_files_give_numbered_documents_that_are_the_file(tmp_path):
    text = "".join(f"Paragraph {i} of the file.\n\n" for i in range(100))
    documents = read(write(tmp_path / "a.txt", text.encode()), cut_bytes=300)
    assert "".join(document.text for document in documents) == text
    assert [document.id for document in documents[:2]] == ["a.txt#1", "a.txt#2"]
    assert all(200 < len(document.text) <= 300 for document in documents[:-1])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"fine\nthen \xff", r"a\.txt is not UTF-8: byte 0xff at offset 10, line 2"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl, line 1 is not a JSON object"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n', r"line 1 has no field 'text'; it has: body, n"),
        ("a.jsonl", b'{"text": null}\n', r"line 1: field 'text' is 'None', which is no text"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', r"lone surrogate U\+D800 at character 1"),
        ("a.jsonl", b'\n{"text": "\xe9"}\n', r"line 2 is not UTF-8: byte 0xe9"),
        ("a.jsonl", b"[" * 100_000, r"line 1 is not JSON"),
        ("a.parquet", b"PAR1 nothing", r"a\.parquet is no readable parquet file"),
        ("a.txt.gz", gzip.compress(b"x" * 100, mtime=0)[:-6], r"a\.txt\.gz cannot be decompressed"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz cannot be decompressed"),
        ("a.txt.xz", lzma.compress(b"x" * 100)[:-6], r"a\.txt\.xz cannot be decompressed"),
        ("a.txt.zst", b"plain text", r"a\.txt\.zst cannot be decompressed"),
    ],
)
def test_bad_input_is_named_with_its_place(tmp_path, name, data, message):
    with pytest.raises(TextError, match=message) as caught:
        read(write(tmp_path / name, data))
    assert "\n" not in str(caught.value)


def test_a_zstd_file_cut_short_is_refused(tmp_path):
    data = zstandard.ZstdCompressor(write_checksum=True).compress(b"some text" * 99)
    for missing in (1, 8, len(data) - 5):
        with pytest.raises(TextError, match=r"a\.txt\.zst cannot be decompressed"):
            read(write(tmp_path / "a.txt.zst", data[:-missing]))


def test_a_long_zstd_file_comes_back_whole(tmp_path):
    text = "".join(f"{i * 7919 % 10_007} bottles\n" for i in range(100_000))
    rows = jsonl(*({"text": line} for line in text.splitlines(keepends=True)))
    path = write(tmp_path / "a.jsonl.zst", COMPRESS[".zst"](rows))
    assert "".join(document.text for document in read(path)) == text


def test_a_missing_parquet_column_is_named_with_those_there_are(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(TextError, match="no column 'text'; it has: body"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("source", ["missing.txt", "none/*.txt"])
def test_a_missing_source_is_named_with_what_could_stand_there(tmp_path, source):
    with pytest.raises(TextError, match="does not exist; give a file"):
        read(tmp_path / source)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(TextError, match="holds no files"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.txt.zst", "a.parquet"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TextError, match=r"pip install 'bytegolf\[data\]'"):
        read(write(tmp_path / name, b"x"))


def hub_that_gives(rows) -> types.ModuleType:
    module = types.ModuleType("datasets")
    module.calls = []

    def load_dataset(name, config, *, split, streaming):
        module.calls.append((name, config, split, streaming))
        if rows is None:
            raise ValueError(f"BuilderConfig {config!r} not found.\nAvailable: all")
        return rows

    module.load_dataset = load_dataset
    return module


def test_hub_rows_are_streamed_by_name_config_and_split(monkeypatch):
    hub = hub_that_gives([{"text": "a"}, {"text": "b", "id": "x"}])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert read("hf:org/name:config:validation") == [Document("a", "org/name:1"), Document("b", "x")]
    assert read("hf:org/name")[0].text == "a"
    assert hub.calls == [("org/name", "config", "validation", True), ("org/name", None, "train", True)]


def test_hub_errors_become_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", hub_that_gives(None))
    with pytest.raises(TextError, match=r"cannot be read .*not found.*; check name, config and split$"):
        read("hf:org/name:nothing")


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextError, match=r"pip install 'bytegolf\[hub\]'"):
        read("hf:org/name")
