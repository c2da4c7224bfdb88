"""Capitals as markers: a word is written in one way, whatever its case, and nothing is lost.

A word is a longest run of ASCII letters. Nothing else changes, be it digits or letters beyond ASCII.

    word                                    written as
    all small                               itself
    one capital, or a capital and small     TITLE and the small word           The    T the
    two or more letters, all capitals       ALLCAPS and the small word         NASA   A nasa
    any other, first letter a capital       TITLE, then as below               OpenAI T open C a C i
    any other                               CAPNEXT before each capital        iPhone i C phone

A marker that stands in the text itself is written as ESC and the marker. This is `lossless_caps_caseops_v1`
of the 16 MB challenge's pull request 1729.

In the form `"before_space"` a TITLE or ALLCAPS stands before the space (U+0020) directly in front of its
word, if there is one, so that a tokenizer can keep the two together: " The" is T " the", not " " T "the".
"""

import re
from typing import Literal

from bytegolf.errors import TextError

TITLE, ALLCAPS, CAPNEXT, ESC = "\ue001", "\ue002", "\ue003", "\ue004"
MARKERS = TITLE + ALLCAPS + CAPNEXT + ESC

Casing = bool | Literal["before_space"]
"""False: capitals stay. True: they are marked in the published form, "before_space": in the other one."""

# One class of characters leads, which the search skips to. The group tells capitals inside a word.
_TO_MARK = re.compile(f"[A-Z{MARKERS}](?:(?<=[a-z][A-Z])()|)[A-Za-z]*")
_CAPITAL = re.compile("([A-Z])")
_MARKED = re.compile(f"[{TITLE}{CAPNEXT}][A-Za-z]?|{ALLCAPS}[A-Za-z]*|{ESC}[{MARKERS}]?")
_LEADING = re.compile(f"[{TITLE}{ALLCAPS}] ?|{ESC}[{MARKERS}]?")


def lossless_caps(text: str, form: Casing = True) -> str:
    """`text` without ASCII capitals; two texts never become the same. Lone surrogates stay as they are."""
    if not form:
        return text
    marked = _TO_MARK.sub(_marked, text)
    if form == "before_space":
        # A TITLE or ALLCAPS of the text itself has ESC in front, never a space.
        for marker in (TITLE, ALLCAPS):
            marked = marked.replace(" " + marker, marker + " ")
    return marked


def restore_caps(text: str, form: Casing = True) -> str:
    """The only text that `lossless_caps` turns into `text`. Raises `TextError` if there is none."""
    restored = CapsStream(form).feed(text)
    again = lossless_caps(restored, form)
    if again != text:
        same = (mine == given for mine, given in zip(again, text, strict=False))
        place = next((place for place, equal in enumerate(same) if not equal), min(len(again), len(text)))
        raise TextError(
            f"from character {place} on, this is no text with marked capitals: a marker is misplaced or a "
            "capital unmarked; give what lossless_caps wrote"
        )
    return restored


class CapsStream:
    """Restores capitals while a text arrives in pieces, cut anywhere.

    What `lossless_caps` wrote in the same form is restored exactly. Other texts, such as a model may write,
    are no error: TITLE and CAPNEXT make the next character a capital, ALLCAPS all letters up to the next
    other character, each only where letters follow; ESC lets the marker behind it stand. Every other marker
    vanishes. With `"before_space"` one space may stand between TITLE or ALLCAPS and its letters.
    """

    def __init__(self, form: Casing = True) -> None:
        self._form = form
        # A marker in front of a possible space, and the marker that still waits for what it acts on.
        self._leading = self._open = ""

    def feed(self, piece: str) -> str:
        """What `piece` stands for: at once all of it but markers, and never changed by later pieces."""
        if not self._form:
            return piece
        if self._form == "before_space":
            piece = self._leading + piece
            self._leading = ""
            piece = _LEADING.sub(self._behind_space, piece)
        text = self._open + piece
        self._open = ""
        return _MARKED.sub(self._restored, text)

    def _behind_space(self, match: re.Match[str]) -> str:
        found = match[0]
        if len(found) == 1 and match.end() == len(match.string):
            self._leading = found
            return ""
        return found[::-1] if found[-1] == " " else found

    def _restored(self, match: re.Match[str]) -> str:
        marker, affected = match[0][0], match[0][1:]
        if match.end() == len(match.string) and (marker == ALLCAPS or not affected):
            self._open = marker
        return affected.upper()


def _marked(match: re.Match[str]) -> str:
    run, inside_word = match[0], match.lastindex is not None
    if inside_word:
        return _capitals_marked(run)
    rest = run[1:]
    if run[0] in MARKERS:
        return ESC + run[0] + lossless_caps(rest)
    if not rest or rest.islower():
        return TITLE + run.lower()
    if run.isupper():
        return ALLCAPS + run.lower()
    return TITLE + run[0].lower() + _capitals_marked(rest)


def _capitals_marked(letters: str) -> str:
    return _CAPITAL.sub(CAPNEXT + r"\1", letters).lower()
