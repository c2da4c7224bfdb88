"""Capitals as markers: every text comes back, the form is the published one, and no other text passes."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import TextError
from bytegolf.text.casing import (
    ALLCAPS,
    CAPNEXT,
    ESC,
    MARKERS,
    TITLE,
    CapsStream,
    lossless_caps,
    restore_caps,
)

NAMES = {"T": TITLE, "A": ALLCAPS, "C": CAPNEXT, "E": ESC}

# Words, their borders and the markers themselves, beside everything else that a string can hold.
texts = st.one_of(
    st.text(st.sampled_from(list(f"aBcD é\u00c9\u0130\u212a.4\n{MARKERS}")), max_size=40),
    st.text(st.characters(exclude_categories=[])),
)


def written(shorthand: str) -> str:
    """T, A, C and E stand for the markers."""
    return "".join(NAMES.get(character, character) for character in shorthand)


def by_characters(text: str) -> str:
    """The definition, word by word and character by character."""
    parts = []
    for part in re.findall("[A-Za-z]+|[^A-Za-z]", text):
        if not re.match("[A-Za-z]", part):
            parts.append(ESC + part if part in MARKERS else part)
        elif len(part) >= 2 and all("A" <= letter <= "Z" for letter in part):
            parts.append(ALLCAPS + part.lower())
        elif all("a" <= letter <= "z" for letter in part[1:]):
            parts.append(TITLE * ("A" <= part[0] <= "Z") + part.lower())
        else:
            parts.append(TITLE * ("A" <= part[0] <= "Z") + part[0].lower())
            parts += [CAPNEXT * ("A" <= letter <= "Z") + letter.lower() for letter in part[1:]]
    return "".join(parts)


@pytest.mark.parametrize(
    ("text", "shorthand"),
    [
        ("The NASA Launch", "Tthe Anasa Tlaunch"),
        ("iPhone OpenAI", "iCphone TopenCaCi"),
        ("I am", "Ti am"),
        ("x86 B52s", "x86 Tb52s"),
        ("école URLs", "école TuCrCls"),
        ("plain, 42!", "plain, 42!"),
        ("", ""),
        (TITLE + "Up" + ESC, "ETTupEE"),
    ],
)
def test_the_published_examples(text, shorthand):
    assert lossless_caps(text) == written(shorthand)
    assert restore_caps(written(shorthand)) == text


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_any_string_comes_back(text):
    assert restore_caps(lossless_caps(text)) == text


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_the_form_is_the_definitions(text):
    assert lossless_caps(text) == by_characters(text)


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.one_of(st.binary(max_size=6), texts.map(lambda t: t.encode("utf-8", "ignore")))))
def test_bytes_that_are_no_utf8_come_back_too(data):
    joined = b"".join(data)
    marked = lossless_caps(joined.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    again = restore_caps(marked.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    assert again == joined


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_every_other_text_is_refused(text):
    try:
        restored = restore_caps(text)
    except TextError:
        return
    assert lossless_caps(restored) == text


@pytest.mark.parametrize(
    ("shorthand", "place"),
    [
        ("go T", 3),
        ("go C", 3),
        ("go A", 3),
        ("go E", 3),
        ("T4", 0),
        ("Cword", 0),
        ("Ax", 0),
        ("AnaCsa", 0),
        ("TTthe", 1),
        ("openCCa", 5),
        ("opTen", 2),
        ("Eword", 0),
        ("ToCk", 0),
    ],
)
def test_misplaced_markers_are_refused_by_their_place(shorthand, place):
    with pytest.raises(TextError, match=f"^from character {place} on") as caught:
        restore_caps(written(shorthand))
    assert "\n" not in str(caught.value)


def test_an_unmarked_capital_is_refused():
    with pytest.raises(TextError, match=r"^from character 4 on.*capital unmarked"):
        restore_caps("the Nasa")


@settings(max_examples=400, deadline=None)
@given(text=texts, cuts=st.lists(st.integers(0, 40)))
def test_a_stream_restores_what_it_gets_however_it_is_cut(text, cuts):
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stream = CapsStream()
    pieces = [stream.feed(text[start:stop]) for start, stop in itertools.pairwise(borders)]
    assert "".join(pieces) == CapsStream().feed(text)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_a_stream_restores_what_was_marked(text):
    stream = CapsStream()
    assert "".join(map(stream.feed, lossless_caps(text))) == text


@pytest.mark.parametrize(
    ("shorthand", "restored"),
    [
        ("T4x", "4x"),
        ("TTx", "X"),
        ("A4x", "4x"),
        ("abAcd ef", "abCD ef"),
        ("AabCcd", "ABCd"),
        ("TAab", "AB"),
        ("Eab", "ab"),
        ("ETabT", TITLE + "ab"),
        ("Té", "é"),
    ],
)
def test_a_stream_makes_the_best_of_misplaced_markers(shorthand, restored):
    assert CapsStream().feed(written(shorthand)) == restored
