"""Validation text that was trained on is found, in whatever disguise; a sound split passes."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import ShardError
from bytegolf.text.documents import Document
from bytegolf.text.ngrams import SKETCH_RATE, gram_hashes
from bytegolf.text.spec import Text, load_text
from bytegolf.tokens.cleanliness import MIN_GRAMS, check_split, exceeds
from bytegolf.tokens.shards import open_prepared, prepare
from bytegolf.tokens.tokenizer import ByteTokenizer


def words(seed: int, count: int) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(0, 50_000, count)]


def document(seed: int, count: int = 1500) -> Document:
    return Document(" ".join(words(seed, count)), f"d{seed}")


VALIDATION = [document(seed) for seed in range(5)]
TRAINING = [document(seed) for seed in range(100, 140)]


def check(folder, *extra: str, documents=VALIDATION, **changes):
    """The verdict on `documents` where `extra` texts were trained on too."""
    prepare(
        folder,
        training=[*TRAINING, *(Document(text, f"extra {i}") for i, text in enumerate(extra))],
        validation=[document(99, 30)],
        tokenizer=ByteTokenizer(),
        source={},
        **changes,
    )
    return check_split(folder, documents)


def test_documents_that_were_not_trained_on_pass(tmp_path):
    found = check(tmp_path)
    assert found.clean
    assert (found.documents, found.exact_count, found.near_count, found.shared_ngrams) == (5, 0, 0, 0)
    grams = [set(gram_hashes([d.text.encode()])[0].tolist()) for d in VALIDATION]
    assert found.checked_ngrams == sum(gram < 2**64 // SKETCH_RATE for own in grams for gram in own)


def test_a_verbatim_copy_is_found(tmp_path):
    found = check(tmp_path, VALIDATION[2].text)
    assert not found.clean
    assert (found.exact, found.exact_count, found.near_count) == (("d2",), 1, 0)


def with_words_changed(text: str) -> str:
    changed = text.split(" ")
    changed[::40] = ["other"] * len(changed[::40])
    return " ".join(changed)


@pytest.mark.parametrize(
    "disguise",
    [
        with_words_changed,
        lambda text: text[: len(text) // 2],
        lambda text: text[len(text) // 2 :],
        lambda text: f"{TRAINING[0].text} {text} {TRAINING[1].text}",
        lambda text: text.upper().replace(" ", ",\n"),
    ],
    ids=["words changed", "first half", "second half", "inside a longer one", "other case and spaces"],
)
def test_a_disguised_copy_is_found(tmp_path, disguise):
    found = check(tmp_path, disguise(VALIDATION[3].text))
    assert not found.clean
    assert (found.exact_count, [near.id for near in found.near], found.near_count) == (0, ["d3"], 1)
    near = found.near[0]
    true = np.isin(
        *(np.unique(gram_hashes([t.encode()])[0]) for t in (VALIDATION[3].text, disguise(VALIDATION[3].text)))
    )
    assert abs(near.share - true.mean()) <= 3 * max(near.standard_error, 1 / near.looked_up)
    assert near.looked_up >= MIN_GRAMS


def test_a_passage_that_everyone_quotes_does_not_convict(tmp_path):
    quoted = " ".join(words(7, 40))
    found = check(tmp_path, quoted, documents=[Document(f"{d.text} {quoted}", d.id) for d in VALIDATION])
    assert found.clean


def test_short_documents_are_not_judged_one_by_one_but_together(tmp_path):
    short = [document(seed, 60) for seed in range(200, 500)]
    copies = [d.text.replace(" ", "  ") for d in short]
    clean, dirty = check(tmp_path / "a", documents=short), check(tmp_path / "b", *copies, documents=short)
    assert clean.short_documents == dirty.short_documents == 300
    assert clean.clean
    assert dirty.near_count == 0
    assert dirty.short_shared_ngrams == dirty.short_ngrams == dirty.checked_ngrams > 100
    assert not dirty.clean


def test_a_lone_short_copy_is_reported_as_unchecked_not_as_clean_by_its_own(tmp_path):
    found = check(tmp_path, "  ".join(words(1, 20)), documents=[Document(" ".join(words(1, 20)), "s")])
    assert (found.short_documents, found.near_count) == (1, 0)


def test_the_listing_is_cut_but_the_count_is_not(tmp_path):
    found = check(tmp_path, documents=TRAINING)
    assert (len(found.exact), found.exact_count, found.documents) == (20, 40, 40)


def test_a_sound_split_of_the_bible_passes(tmp_path):
    split = load_text(Text(("kjv",)))
    prepare(
        tmp_path,
        training=split.training,
        validation=split.validation,
        tokenizer=ByteTokenizer(),
        source={},
    )
    found = check_split(tmp_path, split.validation)
    assert found.clean
    assert found.documents == len(split.validation)
    assert found.short_documents < found.documents / 3
    # The same chapters are found once one of them was trained on under another name.
    dirty = check_split(tmp_path, [Document(d.text.replace(",", ""), d.id) for d in split.training[:50]])
    assert dirty.near_count + dirty.short_documents == 50


def test_the_sketch_is_the_same_for_any_number_of_processes(tmp_path):
    long = [Document(d.text * 20, d.id) for d in TRAINING]
    for processes in (1, 2):
        prepare(
            tmp_path / str(processes),
            training=long,
            validation=VALIDATION,
            tokenizer=ByteTokenizer(),
            source={},
            processes=processes,
        )
    one, two = ((tmp_path / n / "training.sketch").read_bytes() for n in "12")
    assert one == two
    grams = np.unique(gram_hashes([d.text.encode() for d in long])[0])
    np.testing.assert_array_equal(np.frombuffer(one, "<u8"), grams[grams < 2**64 // SKETCH_RATE])


@pytest.mark.parametrize("name", ["manifest.json", "training.hashes", "training.sketch"])
def test_what_is_absent_is_not_checked(tmp_path, name):
    check(tmp_path)
    (tmp_path / name).unlink()
    assert check_split(tmp_path, VALIDATION) is None


def test_a_folder_of_the_first_format_opens_but_is_not_checked(tmp_path):
    check(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest["format"] = 1
    del manifest["files"]["training.sketch"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert open_prepared(tmp_path).training.documents == 40
    assert check_split(tmp_path, VALIDATION) is None


def test_only_three_files_are_needed(tmp_path):
    check(tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in ("manifest.json", "training.hashes", "training.sketch"):
            path.unlink()
    assert check_split(tmp_path, VALIDATION).clean


@pytest.mark.parametrize("name", ["training.hashes", "training.sketch"])
def test_changed_files_are_refused(tmp_path, name):
    check(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[0] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ShardError, match=name):
        check_split(tmp_path, VALIDATION)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("training.hashes", b"123"),
        ("training.sketch", b"123"),
        ("training.sketch", bytes(16)),
        ("training.sketch", bytes(7) + b"\x04"),
    ],
    ids=["hashes", "odd length", "repeated", "outside the sketched part"],
)
def test_what_is_no_sketch_is_refused_even_under_a_right_digest(tmp_path, name, data):
    check(tmp_path)
    (tmp_path / name).write_bytes(data)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="prepare again"):
        check_split(tmp_path, VALIDATION)


@settings(max_examples=60, deadline=None)
@given(looked_up=st.integers(0, 200), threshold=st.floats(0.01, 0.9), data=st.data())
def test_the_tail_is_that_of_the_binomial_distribution(looked_up, threshold, data):
    shared = data.draw(st.integers(0, looked_up))
    logarithms = [
        np.log(float(np.prod([(looked_up - i) / (i + 1) for i in range(min(k, looked_up - k))])))
        + k * np.log(threshold)
        + (looked_up - k) * np.log1p(-threshold)
        for k in range(shared, looked_up + 1)
    ]
    tail = float(np.exp(logarithms).sum())
    if abs(tail - 0.01) > 1e-9:
        expected = looked_up >= MIN_GRAMS and shared > threshold * looked_up and tail <= 0.01
        assert exceeds(shared, looked_up, threshold) == expected
