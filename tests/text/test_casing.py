"""Capitals as markers: every text comes back, the forms are as defined, and no other text passes."""

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
    Casing,
    lossless_caps,
    restore_caps,
)

PUBLISHED, BEFORE_SPACE = True, "before_space"
both_forms = pytest.mark.parametrize("form", [PUBLISHED, BEFORE_SPACE])
NAMES = {"T": TITLE, "A": ALLCAPS, "C": CAPNEXT, "E": ESC}

# Words, their borders and the markers themselves, beside everything else that a string can hold.
texts = st.one_of(
    st.text(st.sampled_from(list(f"aBcD  é\u00c9\u0130\u212a.4\n\u00a0{MARKERS}")), max_size=40),
    st.text(st.characters(exclude_categories=[])),
)


def written(shorthand: str) -> str:
    """T, A, C and E stand for the markers."""
    return "".join(NAMES.get(character, character) for character in shorthand)


def by_characters(text: str, form: Casing) -> str:
    """The definition, word by word and character by character."""
    parts = []
    for space, word, other in re.findall("( ?)([A-Za-z]+)|([^A-Za-z])", text):
        if other:
            parts.append(ESC + other if other in MARKERS else other)
            continue
        capitals = ["A" <= letter <= "Z" for letter in word]
        small = [letter.lower() for letter in word]
        all_capitals = len(word) >= 2 and all(capitals)
        marker = ALLCAPS if all_capitals else TITLE * capitals[0]
        parts.append(space + marker if form is PUBLISHED else marker + space)
        parts.append(small[0])
        for letter, capital in zip(small[1:], capitals[1:], strict=True):
            parts.append(CAPNEXT * (capital and not all_capitals) + letter)
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


@pytest.mark.parametrize(
    ("text", "shorthand"),
    [
        ("The NASA Launch", "TtheA nasaT launch"),
        ("iPhone OpenAI", "iCphoneT openCaCi"),
        ("an iPhone", "an iCphone"),
        ("I am: I", "Ti am:T i"),
        (" X", "T x"),
        ("  X", " T x"),
        ("(The\nThe\u00a0The", "(Tthe\nTthe\u00a0Tthe"),
        (f"{TITLE} Up {TITLE}Up {ESC} A", "ETT up ETTup EET a"),
    ],
)
def test_a_marker_changes_places_with_the_one_space_before_its_word(text, shorthand):
    assert lossless_caps(text, BEFORE_SPACE) == written(shorthand)
    assert restore_caps(written(shorthand), BEFORE_SPACE) == text


def test_without_casing_nothing_changes():
    text = f"The{TITLE} NASA{ESC}"
    assert lossless_caps(text, False) == restore_caps(text, False) == text


@both_forms
@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_any_string_comes_back(form, text):
    assert restore_caps(lossless_caps(text, form), form) == text


@both_forms
@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_the_form_is_the_definitions(form, text):
    assert lossless_caps(text, form) == by_characters(text, form)


@both_forms
@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.one_of(st.binary(max_size=6), texts.map(lambda t: t.encode("utf-8", "ignore")))))
def test_bytes_that_are_no_utf8_come_back_too(form, data):
    joined = b"".join(data)
    marked = lossless_caps(joined.decode("utf-8", "surrogateescape"), form).encode("utf-8", "surrogateescape")
    again = restore_caps(marked.decode("utf-8", "surrogateescape"), form).encode("utf-8", "surrogateescape")
    assert again == joined


@both_forms
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_every_other_text_is_refused(form, text):
    try:
        restored = restore_caps(text, form)
    except TextError:
        return
    assert lossless_caps(restored, form) == text


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


@pytest.mark.parametrize(
    ("form", "shorthand", "place"),
    [
        (PUBLISHED, "goT the", 2),
        (PUBLISHED, "goA nasa", 2),
        (BEFORE_SPACE, "go Tthe", 2),
        (BEFORE_SPACE, "go Anasa", 2),
        (BEFORE_SPACE, "T ", 0),
        (BEFORE_SPACE, "T  the", 0),
        (BEFORE_SPACE, "T 4", 0),
        (BEFORE_SPACE, "C the", 0),
        (BEFORE_SPACE, "A x", 0),
        (BEFORE_SPACE, "ET the T", 7),
    ],
)
def test_each_form_refuses_the_others_places(form, shorthand, place):
    with pytest.raises(TextError, match=f"^from character {place} on"):
        restore_caps(written(shorthand), form)


@both_forms
def test_an_unmarked_capital_is_refused(form):
    with pytest.raises(TextError, match=r"^from character \d on.*capital unmarked"):
        restore_caps("the Nasa", form)


@both_forms
@settings(max_examples=400, deadline=None)
@given(text=texts, cuts=st.lists(st.integers(0, 40)))
def test_a_stream_restores_what_it_gets_however_it_is_cut(form, text, cuts):
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stream = CapsStream(form)
    pieces = [stream.feed(text[start:stop]) for start, stop in itertools.pairwise(borders)]
    assert "".join(pieces) == CapsStream(form).feed(text)


@both_forms
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_each_character_but_markers_comes_out_at_once(form, text):
    stream = CapsStream(form)
    for character in text:
        restored = stream.feed(character)
        if character not in MARKERS:
            assert restored in (character, character.upper())


@both_forms
@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_a_stream_restores_what_was_marked(form, text):
    stream = CapsStream(form)
    assert "".join(map(stream.feed, lossless_caps(text, form))) == text


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
@both_forms
def test_a_stream_makes_the_best_of_misplaced_markers(form, shorthand, restored):
    assert CapsStream(form).feed(written(shorthand)) == restored


@pytest.mark.parametrize(
    ("shorthand", "published", "before_space"),
    [
        ("T x A yz", " x  yz", " X  YZ"),
        ("T  x", "  x", "  x"),
        ("TA x", " x", " X"),
        ("Ana sa", "NA sa", "NA sa"),
        (" Tx Ayz", " X YZ", " X YZ"),
        ("C x", " x", " x"),
        ("ET x", TITLE + " x", TITLE + " x"),
    ],
)
def test_only_before_spaces_a_marker_reaches_over_one(shorthand, published, before_space):
    assert CapsStream(PUBLISHED).feed(written(shorthand)) == published
    assert CapsStream(BEFORE_SPACE).feed(written(shorthand)) == before_space
