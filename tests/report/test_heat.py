"""Text coloured by cost."""

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.report.heat import SHADES, coloured_text, documents, runs, shade, tokens_of

PIECES = st.lists(st.tuples(st.binary(max_size=5), st.floats(0, 30)), max_size=40)


def cut(data: bytes, sizes: list[int]) -> list[tuple[bytes, float]]:
    tokens, start = [], 0
    for size in [*sizes, len(data)]:
        tokens.append((data[start : start + size], 1.0))
        start += size
    return [token for token in tokens if token[0]]


@given(text=st.text(), sizes=st.lists(st.integers(1, 4), max_size=30))
@settings(deadline=None, max_examples=300)
def test_text_survives_any_cut_into_tokens(text: str, sizes: list[int]) -> None:
    assert "".join(shown for shown, _ in runs(cut(text.encode(), sizes))) == text


@given(tokens=PIECES)
@settings(deadline=None, max_examples=300)
def test_every_token_is_shown_once_whatever_its_bytes(tokens: list[tuple[bytes, float]]) -> None:
    assert [token for _, group in runs(tokens) for token in group] == tokens


@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t <>&\"'")))
@settings(deadline=None, max_examples=300)
def test_markup_reads_back_as_the_text_with_its_white_space(text: str) -> None:
    made = coloured_text([(text.encode()[i : i + 3], 1.0) for i in range(0, len(text.encode()), 3)])
    bare = re.sub(r"<[^>]*>", "", made)
    assert html.unescape(bare) == text


def test_text_survives_when_no_cut_falls_between_characters() -> None:
    text = "éé" + "€" * 20
    tokens = [(text.encode()[i : i + 3], 1.0) for i in range(0, len(text.encode()), 3)]
    assert "".join(shown for shown, _ in runs(tokens)) == text


def test_a_span_says_what_its_token_cost() -> None:
    made = coloured_text([(b" the", 2.504), (b"\n", 0.1)])
    assert '<span class="h2" title="2.50 bits, 4 bytes"> the</span>' in made
    assert 'title="0.10 bits, 1 byte"' in made


def test_a_character_split_over_tokens_is_one_span_with_their_sum() -> None:
    made = coloured_text([(b"a\xe2", 1.0), (b"\x82", 2.0), (b"\xac", 3.0)])
    assert made == '<span class="h4" title="6.00 bits, 4 bytes, 3 tokens">a€</span>'


def test_bytes_that_are_no_text_come_as_escapes() -> None:
    made = coloured_text([(b"ok\xff", 1.0), (b"\xe2", 1.0), (b"(", 1.0)])
    assert re.sub(r"<[^>]*>", "", made) == "ok\\xff\\xe2("


def test_control_characters_are_made_visible() -> None:
    assert "␀␛␍" in coloured_text([(b"\0\x1b\r", 1.0)])


def test_the_end_of_a_document_has_its_cost_too() -> None:
    assert 'title="0.31 bits, 0 bytes"' in coloured_text([(b"", 0.31)])


def test_a_marker_of_capitals_is_one_span_with_the_word_behind_it() -> None:
    made = coloured_text([(b" ", 0.5), (b"", 1.0), (b"The", 2.0), (b"", 0.1)])
    assert made == (
        '<span class="h2" title="0.50 bits, 1 byte"> </span>'
        '<span class="h3" title="3.00 bits, 3 bytes, 2 tokens">The</span>'
        '<span class="h0" title="0.10 bits, 0 bytes"><span class="end">∎</span></span>'
    )


def test_shades_grow_with_the_cost_of_a_byte() -> None:
    values = [shade(bits, 2) for bits in (0.0, 0.49, 0.5, 2.0, 7.9, 8.0, 100.0)]
    assert values == [0, 0, 1, 3, 6, 7, len(SHADES)]


@pytest.mark.parametrize(
    "item", [None, 3, "ab", [], ["zz", 1.0], ["61"], ["61", "1"], ["61", None], ["61", True], [6, 1]]
)
def test_malformed_tokens_are_passed_over(item: Any) -> None:
    assert tokens_of({"tokens": [item, ["61", 1]]}) == [(b"a", 1.0)]


def test_tokens_without_a_finite_cost_are_passed_over() -> None:
    assert tokens_of(json.loads('{"tokens": [["61", NaN], ["62", Infinity], ["63", 1e999]]}')) == []


def test_only_the_first_document_stands_open() -> None:
    made = documents([{"id": str(i), "tokens": [["61", 1.0]]} for i in range(3)])
    assert [" open" in document.split(">", 1)[0] for document in made] == [True, False, False]
