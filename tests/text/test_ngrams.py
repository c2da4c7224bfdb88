"""Hashes of 13-grams: equal grams have equal hashes, wherever in a text and however long the words."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.text import ngrams
from bytegolf.text.ngrams import GRAM_WORDS, SKETCH_LIMIT, gram_hashes, sketched_grams

texts = st.lists(
    st.lists(st.sampled_from(["a", "B", "b7", " ", ".", "  ", "中", "-x", "abcdefghij"]), max_size=60).map(
        lambda parts: "".join(parts).encode()
    ),
    max_size=5,
)


def grams_of(text: bytes) -> list[tuple[bytes, ...]]:
    words = re.findall(rb"[a-z0-9\x80-\xff]+", text.lower())
    size = min(GRAM_WORDS, len(words))
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1) if size]


@settings(max_examples=150, deadline=None)
@given(texts=texts)
def test_hashes_are_equal_where_the_words_are(texts):
    hashes, owners = gram_hashes(texts)
    expected = [(gram, i) for i, text in enumerate(texts) for gram in grams_of(text)]
    assert owners.tolist() == [owner for _, owner in expected]
    pairs = set(zip(hashes.tolist(), (gram for gram, _ in expected), strict=True))
    assert len(pairs) == len({hash_ for hash_, _ in pairs}) == len({gram for _, gram in pairs})


@settings(max_examples=100, deadline=None)
@given(texts=texts, block=st.integers(1, 40))
def test_the_size_of_blocks_changes_nothing(texts, block):
    expected = gram_hashes(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "_BLOCK", block)
        found = gram_hashes(texts)
    np.testing.assert_array_equal(expected, found)


def test_a_sketch_is_the_part_below_the_limit():
    made = [
        " ".join(f"w{n}" for n in np.random.default_rng(i).integers(0, 999, 4000)).encode() for i in (0, 1)
    ]
    hashes, owners = gram_hashes(made)
    below = hashes < SKETCH_LIMIT
    np.testing.assert_array_equal(sketched_grams(made), (hashes[below], owners[below]))
    assert 80 < below.sum() < 180


@pytest.mark.parametrize(
    "text", ["中文没有空格" * 200_000, "x" * 3_000_000, "a " * 500_000, " " * 500_000, ""]
)
def test_texts_without_words_as_we_know_them_are_taken(text):
    hashes, owners = gram_hashes([text.encode(), b"one"])
    assert owners[-1] == 1
    assert len(hashes) == len(grams_of(text.encode())) + 1
