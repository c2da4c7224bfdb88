"""Looking words up gives the ids that the library gives the whole text."""

import functools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.text.casing import lossless_caps
from bytegolf.text.documents import Document
from bytegolf.tokens import words
from bytegolf.tokens.sentence_pieces import NORMAL, SPACE, Pieces, SentencePieceTokenizer
from bytegolf.tokens.training import train_sentencepiece
from bytegolf.tokens.words import SEPARATOR, WordIds, words_within

SAMPLE = (
    "A man, a plan; a canal -- Panama! 1,024 words of_snake_case in 2026. Größe naïve İstanbul.\n\n  two "
)
FORMS = [False, True, "before_space"]

letters = st.sampled_from(list("aAbBéÉßİıżα²½٣中0123_,.-'  \t\n\x00" + SEPARATOR))
texts = st.one_of(st.text(letters, max_size=60), st.text(max_size=30))


@functools.cache
def trained(casing) -> SentencePieceTokenizer:
    return train_sentencepiece([Document(SAMPLE * 30, "a")], 330, casing=casing)


@pytest.mark.parametrize("casing", FORMS)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_words_have_the_ids_of_the_whole_text(casing, text):
    tokenizer = trained(casing)
    assert tokenizer._words is not None
    # Nothing has been spelled out in bytes before the library sees it.
    whole = tokenizer._processor.encode(lossless_caps(text, casing), out_type=int)
    if not set(text) & set(tokenizer._spelled):
        np.testing.assert_array_equal(tokenizer.encode(text), whole)


@pytest.mark.parametrize("casing", FORMS)
@settings(max_examples=40, deadline=None)
@given(text=texts, most=st.integers(0, 8), together=st.integers(1, 12))
def test_what_is_remembered_and_learned_at_once_changes_no_id(casing, text, most, together):
    tokenizer = trained(casing)
    expected = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_MOST", most)
        patch.setattr(words, "_LEARNED_CHARACTERS", together)
        for _ in range(2):
            np.testing.assert_array_equal(SentencePieceTokenizer(tokenizer.pieces).encode(text), expected)
            np.testing.assert_array_equal(tokenizer.encode(text), expected)


def test_words_are_as_short_as_the_pieces_allow():
    fine, coarse = words_within([" the", "ing", "--", "  "]), words_within([" don't", "x2"])
    assert fine is not None
    assert coarse is not None
    text = " a  don't, x2_y  "
    assert fine.findall(text) == [" a", "  don", "'", "t", ",", " x", "2", "_", "y", "  "]
    assert coarse.findall(text) == [" a", "  don't,", " x2_y", "  "]
    assert words_within(["of the"]) is None
    assert words_within(["the "]) is None


@settings(max_examples=200, deadline=None)
@given(text=st.text(letters, max_size=40))
def test_words_together_are_the_text(text):
    for pattern in (words_within([" the"]), words_within(["x2"])):
        assert pattern is not None
        assert "".join(pattern.findall(text)) == text


def test_pieces_that_reach_over_words_leave_text_whole():
    pieces = trained(False).pieces
    place = next(i for i in range(len(pieces.names) - 1, 0, -1) if pieces.types[i] == NORMAL)
    names = [*pieces.names]
    names[place] = f"man{SPACE}"
    tokenizer = SentencePieceTokenizer(Pieces(tuple(names), pieces.types, pieces.bos, pieces.normalizer))
    assert tokenizer._words is None
    assert tokenizer.decode(tokenizer.encode("a man a plan")) == b"a man a plan"


def test_a_word_is_told_once():
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [7 if letter == SEPARATOR else ord(letter) for letter in text]

    ids = WordIds(re.compile(" *[^ ]+| +"), encode, separator=7)
    assert ids.of("one two one two").tolist() == [ord(letter) for letter in "one two one two"]
    assert ids.of(" two one").tolist() == [ord(letter) for letter in " two one"]
    assert sorted(word for text in asked for word in text.split(SEPARATOR)) == [" one", " two", "one"]
