"""Tokenizers are exact over bytes, and what a table restores encodes identically."""

import functools

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bytegolf.errors import TokenizerError
from bytegolf.text.documents import Document
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
    train_sentencepiece,
)

SAMPLE = (
    "In the beginning was the word, and the word was with the deep; über Größe und Maß, 42 Äpfel.\n"
    "def walk(tree):\n    for leaf in tree:\n        yield leaf\n\n"
    "水は流れる。 Ça va? Oui, ça va — très bien!\n"
)


@functools.cache
def trained() -> Tokenizer:
    return train_sentencepiece([Document(SAMPLE * 5, "a"), Document(SAMPLE[::-1] * 3, "b")], 400)


@functools.cache
def cased() -> Tokenizer:
    return train_sentencepiece(
        [Document(SAMPLE * 5, "a"), Document(SAMPLE.upper() * 3, "b")], 400, casing=True
    )


@functools.cache
def cased_before_space() -> Tokenizer:
    return train_sentencepiece(
        [Document(SAMPLE * 5, "a"), Document(SAMPLE.upper() * 3, "b")], 400, casing="before_space"
    )


LOSSLESS = [ByteTokenizer, trained, cased, cased_before_space]

# What tends to break tokenizers, among letters that do have pieces.
tricky = st.text(
    st.one_of(
        st.sampled_from(list(" \t\n\r\0\u2581\u2585\u2047\ufeff\ue001\ufffd\x85\u2028the word\ue004ThE")),
        st.characters(exclude_categories=["Cs"]),
    )
)
any_bytes = st.one_of(
    st.binary(),
    st.lists(st.one_of(tricky.map(str.encode), st.binary(max_size=4)), max_size=8).map(b"".join),
)


@pytest.mark.parametrize("make", LOSSLESS)
@settings(max_examples=150, deadline=None)
@given(text=tricky)
def test_ledger_total_is_the_utf8_length_of_any_text(make, text):
    tokenizer = make()
    ids = tokenizer.encode(text)
    assert byte_counts(tokenizer, ids, tokenizer.bos).sum() == len(text.encode())


@pytest.mark.parametrize("make", LOSSLESS)
@settings(max_examples=150, deadline=None)
@given(data=any_bytes)
def test_decoding_restores_any_bytes(make, data):
    tokenizer = make()
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    assert byte_counts(tokenizer, ids, None).sum() == len(data)


@pytest.mark.parametrize("make", LOSSLESS)
@settings(max_examples=100, deadline=None)
@given(text=tricky)
def test_a_text_and_its_utf8_have_the_same_ids(make, text):
    tokenizer = make()
    np.testing.assert_array_equal(tokenizer.encode(text), tokenizer.encode(text.encode()))


@pytest.mark.parametrize("make", LOSSLESS)
@settings(max_examples=100, deadline=None)
@given(data=any_bytes)
def test_a_restored_tokenizer_encodes_identically(make, data):
    restored = tokenizer_from_bytes(make().to_bytes())
    np.testing.assert_array_equal(restored.encode(data), make().encode(data))


@pytest.mark.parametrize("make", LOSSLESS)
@settings(max_examples=100, deadline=None)
@given(data=any_bytes)
def test_bos_and_unknown_are_never_produced(make, data):
    tokenizer = make()
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32
    assert tokenizer.bos not in ids
    assert all(tokenizer.token_bytes[token] or token in tokenizer.markers for token in ids)


def test_training_is_deterministic_and_restoring_keeps_the_digest():
    documents = [Document(SAMPLE * 5, "a"), Document(SAMPLE[::-1] * 3, "b")]
    digests = {train_sentencepiece(documents, 400, threads=n).digest for n in (1, 2)}
    assert digests == {trained().digest} == {tokenizer_from_bytes(trained().to_bytes()).digest}


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(tricky, min_size=1, max_size=6),
    vocabulary=st.integers(272, 300),
    casing=st.sampled_from([False, True, "before_space"]),
    probe=any_bytes,
)
def test_any_text_trains_an_exact_tokenizer_or_is_refused(texts, vocabulary, casing, probe):
    documents = [Document(text * 7 + SAMPLE[:60], str(i)) for i, text in enumerate(texts)]
    try:
        tokenizer = train_sentencepiece(documents, vocabulary, casing=casing)
    except TokenizerError:
        event("refused")
        return
    event("trained")
    assert tokenizer.vocabulary == vocabulary
    assert tokenizer.decode(tokenizer.encode(probe)) == probe


def test_a_sample_is_drawn_from_all_documents():
    documents = [Document(f"{word} " * 400, word) for word in ("alpha", "beta", "gamma", "delta")]
    tokenizer = train_sentencepiece(documents, 280, sample_bytes=4500)
    whole = [word for word in ("alpha", "beta", "gamma", "delta") if len(tokenizer.encode(f" {word}")) == 1]
    assert len(whole) == 2


def test_trained_vocabulary_has_exactly_the_size_asked_for():
    assert trained().vocabulary == len(trained().token_bytes) == 400


def test_learned_pieces_are_used():
    assert len(trained().encode("the word was with the deep")) < 13


def test_no_two_learned_pieces_stand_for_the_same_bytes_but_the_space():
    learned = [piece for piece in trained().token_bytes if piece]
    assert sorted({piece for piece in learned if learned.count(piece) > 1}) == [b" "]


def test_a_lone_surrogate_is_refused():
    for make in LOSSLESS:
        with pytest.raises(TokenizerError, match=r"U\+DC80 at character 1"):
            make().encode("a\udc80")


def test_ids_outside_the_vocabulary_are_refused():
    for make in LOSSLESS:
        with pytest.raises(TokenizerError, match="outside the vocabulary"):
            make().decode(np.array([make().vocabulary]))


@pytest.mark.parametrize(
    ("text", "vocabulary", "message"),
    [
        ("abc", 100, "vocabulary is 100; choose 272"),
        ("abc", 1024, "yields only"),
        ("", 300, "no characters"),
        ("\t\u2581", 300, "no characters"),
    ],
)
def test_training_on_too_little_text_says_what_to_do(text, vocabulary, message):
    with pytest.raises(TokenizerError, match=message):
        train_sentencepiece([Document(text, "a")], vocabulary)


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"none\.model"):
        load_tokenizer(str(tmp_path / "none.model"))


def test_a_saved_table_loads_from_its_file(tmp_path):
    path = tmp_path / "my.tokenizer"
    path.write_bytes(trained().to_bytes())
    assert load_tokenizer(str(path)).digest == trained().digest


@pytest.mark.parametrize("make", [trained, cased, cased_before_space])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_refused_or_harmless(make, data):
    table = bytearray(make().to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        table[data.draw(st.integers(0, len(table) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(table[: data.draw(st.integers(0, len(table)))])
    try:
        tokenizer = tokenizer_from_bytes(cut)
    except TokenizerError:
        return
    assert tokenizer.decode(tokenizer.encode(b"some \xff bytes")) is not None
