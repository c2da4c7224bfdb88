"""Prepared folders: complete, checked, reused or refused, never mixed."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import ShardError
from bytegolf.text.documents import Document
from bytegolf.tokens import tokenizing
from bytegolf.tokens.shard_files import HEADER_BYTES, map_shard
from bytegolf.tokens.shards import open_prepared, prepare
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import ByteTokenizer, train_sentencepiece

TOKENIZER = ByteTokenizer()
TRAINING = [Document(f"training document number {i} " * (i % 7 + 1), f"t{i}") for i in range(40)]
VALIDATION = [Document("held out\nin two lines", "v0"), Document("élan vital \u2581 \x00\x85\u2028", "v1")]


def prepare_in(folder, **changes):
    arguments = {
        "training": TRAINING,
        "validation": VALIDATION,
        "tokenizer": TOKENIZER,
        "source": {"text": "a"},
    }
    return prepare(folder, **(arguments | changes))


def texts_of(store: TokenStore) -> list[str]:
    parts = np.split(store.read(0, store.tokens), store.starts[1:])
    return [TOKENIZER.decode(part).decode() for part in parts]


def test_both_splits_come_back_in_order(tmp_path):
    prepared = prepare_in(tmp_path / "tokens")
    assert texts_of(prepared.training) == [document.text for document in TRAINING]
    assert texts_of(prepared.validation) == [document.text for document in VALIDATION]
    assert prepared.validation_documents() == VALIDATION


def test_counts_are_those_of_the_text(tmp_path):
    prepared = prepare_in(tmp_path)
    for store, documents in ((prepared.training, TRAINING), (prepared.validation, VALIDATION)):
        text_bytes = sum(len(document.text.encode()) for document in documents)
        assert (store.documents, store.bytes) == (len(documents), text_bytes)
        assert store.tokens == text_bytes + len(documents)
    totals = prepared.manifest["totals"]["training"]
    assert totals == {
        "tokens": prepared.training.tokens,
        "documents": prepared.training.documents,
        "bytes": prepared.training.bytes,
    }


def test_shards_have_the_challenges_format(tmp_path):
    prepare_in(tmp_path)
    data = (tmp_path / "validation_000000.bin").read_bytes()
    header = np.frombuffer(data[:1024], dtype="<i4")
    tokens = np.frombuffer(data[1024:], dtype="<u2")
    assert header[:3].tolist() == [20240520, 1, len(tokens)]
    assert not header[3:].any()
    assert tokens[0] == TOKENIZER.bos


@settings(max_examples=40, deadline=None)
@given(shard_tokens=st.integers(1, 400), data=st.data())
def test_reading_crosses_shard_borders(tmp_path_factory, shard_tokens, data):
    folder = tmp_path_factory.mktemp("tokens")
    store = prepare_in(folder, training=TRAINING[:8], shard_tokens=shard_tokens).training
    whole = np.concatenate([map_shard(path) for path in sorted(folder.glob("training_*.bin"))])
    start = data.draw(st.integers(0, store.tokens))
    stop = data.draw(st.integers(start, store.tokens))
    np.testing.assert_array_equal(store.read(start, stop), whole[start:stop])
    assert texts_of(store) == [document.text for document in TRAINING[:8]]


def test_several_processes_write_the_same_shards(tmp_path, monkeypatch):
    # Of many chunks, or one process would get them all.
    monkeypatch.setattr(tokenizing, "_CHUNK_CHARACTERS", 20_000)
    tokenizer = train_sentencepiece(TRAINING, 290)
    long = [Document(document.text * 150, document.id) for document in TRAINING]
    hashes = [
        [
            shard["sha256"]
            for shard in prepare_in(
                tmp_path / str(n), training=long, tokenizer=tokenizer, processes=n, shard_tokens=10_000
            ).manifest["shards"]
        ]
        for n in (1, 2)
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 3


def test_progress_counts_documents_and_bytes(tmp_path):
    calls = []
    prepared = prepare_in(tmp_path, progress=lambda documents, count: calls.append((documents, count)))
    assert calls[-1] == (len(TRAINING) + len(VALIDATION), prepared.training.bytes + prepared.validation.bytes)


def test_a_second_preparation_reuses_the_first_without_reading_text(tmp_path):
    first = prepare_in(tmp_path)
    before = (tmp_path / "training_000000.bin").stat().st_mtime_ns

    def unread():
        raise AssertionError("the text was read again")
        yield

    second = prepare_in(tmp_path, training=unread(), validation=unread())
    assert second.manifest == first.manifest
    assert (tmp_path / "training_000000.bin").stat().st_mtime_ns == before


def test_other_text_is_refused_by_name(tmp_path):
    prepare_in(tmp_path, source={"text": {"sources": ["a"]}, "seed": 0})
    with pytest.raises(ShardError, match=r"text is .*'a'.* there and .*'b'.* here; choose another folder"):
        prepare_in(tmp_path, source={"text": {"sources": ("b",)}, "seed": 0})


def test_another_tokenizer_is_refused(tmp_path):
    prepare_in(tmp_path)
    with pytest.raises(ShardError, match="another tokenizer"):
        prepare_in(tmp_path, tokenizer=train_sentencepiece(TRAINING, 290))


def test_validation_documents_never_enter_training(tmp_path):
    leaking = [*TRAINING[:20], Document(VALIDATION[1].text, "copy"), *TRAINING[20:]]
    prepared = prepare_in(tmp_path, training=leaking)
    assert prepared.manifest["leaked_documents_dropped"] == 1
    assert texts_of(prepared.training) == [document.text for document in TRAINING]


def test_a_leak_in_a_prepared_folder_is_found(tmp_path):
    prepare_in(tmp_path)
    leaked = (tmp_path / "training.hashes").read_bytes() + (tmp_path / "validation.hashes").read_bytes()[:16]
    (tmp_path / "training.hashes").write_bytes(leaked)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest["files"]["training.hashes"] = hashlib.sha256(leaked).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="1 validation documents"):
        open_prepared(tmp_path)


def test_a_shard_cut_short_is_refused(tmp_path):
    prepare_in(tmp_path)
    path = tmp_path / "training_000000.bin"
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(ShardError, match=r"training_000000\.bin .* cut short"):
        open_prepared(tmp_path)


@pytest.mark.parametrize("size", [0, 10, HEADER_BYTES])
def test_a_shard_without_tokens_is_refused(tmp_path, size):
    prepare_in(tmp_path)
    os.truncate(tmp_path / "training_000000.bin", size)
    with pytest.raises(ShardError, match=r"training_000000\.bin"):
        open_prepared(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "training_000000.bin",
        "validation_000000.bin",
        "validation.jsonl",
        "training.hashes",
        "validation.hashes",
        "training.sketch",
        "pieces.tokenizer",
    ],
)
def test_a_changed_byte_or_a_missing_file_is_refused(tmp_path, name):
    prepare_in(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=name):
        open_prepared(tmp_path)
    path.unlink()
    with pytest.raises(ShardError, match=str(tmp_path)):
        open_prepared(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    prepare_in(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match="prepare"):
        open_prepared(tmp_path)


def changed_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][0].update(bytes=m["shards"][0]["bytes"] + 1),
        lambda m: m["shards"][0].update(bytes=-1),
        lambda m: m["shards"][0].update(bytes="1"),
        lambda m: m["shards"][0].update(tokens=True),
        lambda m: m["shards"][0].update(file="../training_000000.bin"),
        lambda m: m["shards"][0].update(file="/dev/zero"),
        lambda m: m["shards"][0].update(split="test"),
        lambda m: m["shards"][0].update(sha256=None),
        lambda m: m["shards"].clear(),
        lambda m: m["shards"].append(3),
        lambda m: m["files"].update({"/dev/zero": m["files"]["training.hashes"]}),
        lambda m: m["files"].pop("training.sketch"),
        lambda m: m["files"].update({"training.hashes": 5}),
        lambda m: m.update(files=[]),
        lambda m: m.update(source=[]),
        lambda m: m.update(tokenizer="bytes"),
        lambda m: m.update(totals={}),
        lambda m: m["totals"]["validation"].update(bytes=0),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_in_one_line(tmp_path, change):
    prepare_in(tmp_path)
    changed_manifest(tmp_path, change)
    with pytest.raises(ShardError, match="damaged") as caught:
        open_prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_manifest_nested_beyond_all_measure_is_refused(tmp_path):
    prepare_in(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ShardError, match="damaged"):
        open_prepared(tmp_path)


def test_a_device_in_place_of_a_file_is_not_read(tmp_path):
    prepare_in(tmp_path)
    (tmp_path / "training.sketch").unlink()
    (tmp_path / "training.sketch").symlink_to("/dev/zero")
    with pytest.raises(ShardError, match=r"training\.sketch is missing"):
        open_prepared(tmp_path)


def test_counts_that_contradict_the_shards_are_refused(tmp_path):
    prepare_in(tmp_path)

    def change(manifest):
        for counts in (manifest["shards"][0], manifest["totals"][manifest["shards"][0]["split"]]):
            counts["documents"] += 1

    changed_manifest(tmp_path, change)
    with pytest.raises(ShardError, match="where its manifest says"):
        open_prepared(tmp_path)


def replaced(folder, name, data):
    """Another file under a name, with its digest in the manifest."""
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()

    def change(manifest):
        manifest["files"].update({name: digest} if name in manifest["files"] else {})
        for shard in manifest["shards"]:
            shard["sha256"] = digest if shard["file"] == name else shard["sha256"]

    changed_manifest(folder, change)


@pytest.mark.parametrize("name", ["training.hashes", "validation.hashes"])
def test_hashes_of_an_odd_length_are_refused_even_under_a_right_digest(tmp_path, name):
    prepare_in(tmp_path)
    replaced(tmp_path, name, bytes(24))
    with pytest.raises(ShardError, match=rf"{name} is no list of hashes"):
        open_prepared(tmp_path)


def test_ids_beyond_the_vocabulary_are_refused_even_under_a_right_digest(tmp_path):
    prepare_in(tmp_path)
    data = bytearray((tmp_path / "training_000000.bin").read_bytes())
    data[-1] = 0xFF
    replaced(tmp_path, "training_000000.bin", bytes(data))
    with pytest.raises(ShardError, match="outside the tokenizer's vocabulary of 257"):
        open_prepared(tmp_path)


@pytest.mark.parametrize("line", [b"{", b"[]", b"5", b'{"text": "a"}', b"\xff", b"[" * 100_000])
def test_held_out_text_that_is_none_is_refused_even_under_a_right_digest(tmp_path, line):
    prepare_in(tmp_path)
    replaced(tmp_path, "validation.jsonl", line + b"\n")
    with pytest.raises(ShardError, match=r"validation\.jsonl is damaged"):
        open_prepared(tmp_path).validation_documents()


def test_an_interrupted_preparation_is_done_again(tmp_path):
    def interrupted():
        yield from TRAINING[:30]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_in(tmp_path, training=interrupted(), shard_tokens=100)
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / ".training_000001.bin.k1ll3d").write_bytes(b"left by a killed process")
    (tmp_path / "notes.txt").write_text("not ours")
    prepared = prepare_in(tmp_path)
    assert texts_of(prepared.training) == [document.text for document in TRAINING]
    assert [path.name for path in tmp_path.glob("*training_*.bin*")] == ["training_000000.bin"]
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_an_empty_split_is_refused(tmp_path, empty):
    with pytest.raises(ShardError, match=f"no {empty} documents"):
        prepare_in(tmp_path, **{empty: []})
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ShardError, match="choose a folder you can write to"):
        prepare_in(tmp_path / "file" / "tokens")


def test_a_full_disk_leaves_no_manifest(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ShardError, match="No space left on device"):
        prepare_in(tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_bytes_are_text_up_to_the_limit(tmp_path):
    prepared = prepare_in(tmp_path)
    whole = prepared.training_bytes(1_000_000)
    assert sorted(whole) == sorted("".join(document.text for document in TRAINING).encode())
    assert prepared.training_bytes(100) == whole[:100]


def test_foreign_shards_open_with_the_ledgers_count(tmp_path):
    prepared = prepare_in(tmp_path, shard_tokens=100)
    store = TokenStore.from_files(sorted(tmp_path.glob("training_*.bin")), TOKENIZER)
    assert (store.tokens, store.bytes) == (prepared.training.tokens, prepared.training.bytes)


def test_foreign_shards_of_another_vocabulary_are_refused(tmp_path):
    prepare_in(tmp_path, tokenizer=train_sentencepiece(TRAINING, 290))
    with pytest.raises(ShardError, match="outside the tokenizer's vocabulary of 257"):
        TokenStore.from_files([tmp_path / "training_000000.bin"], TOKENIZER)


def test_shards_that_begin_inside_a_document_are_refused():
    with pytest.raises(ShardError, match="begin inside a document"):
        TokenStore([np.array([1, 256, 2], dtype=np.uint16)], bos=256, text_bytes=2)
