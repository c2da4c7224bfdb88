"""Between text and bytes: any bytes at all can be encoded, and ids stand for what a table says."""

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from bytegolf.errors import TokenizerError

# A byte that is no part of valid UTF-8 stands in a decoded string as one of these code points (PEP 383).
_UNDECODABLE = "\udc80-\udcff"

_Entry = TypeVar("_Entry")


def as_bytes(text: str | bytes) -> bytes:
    """The UTF-8 of a string; bytes as they are. A lone surrogate has no bytes: `TokenizerError`."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TokenizerError(
            f"text holds the lone surrogate U+{code:04X} at character {error.start}, which has no bytes; "
            "remove it or pass the original bytes"
        ) from error


def split_valid(text: str | bytes, also: str = "") -> Iterator[str | bytes]:
    """Cuts a text into strings of valid UTF-8 and raw bytes, which together are the bytes of the text.

    Raw are the bytes that are not valid UTF-8 and the characters in `also`.
    """
    if isinstance(text, bytes):
        decoded = text.decode("utf-8", "surrogateescape")
    else:
        as_bytes(text)
        decoded = text
    position = 0
    for match in re.finditer(f"[{also}{_UNDECODABLE}]+", decoded):
        if match.start() > position:
            yield decoded[position : match.start()]
        yield match.group().encode("utf-8", "surrogateescape")
        position = match.end()
    if position < len(decoded):
        yield decoded[position:]


def look_up(table: Sequence[_Entry], ids: np.ndarray) -> Iterator[_Entry]:
    """The table's entry of every id; an id outside the vocabulary is a `TokenizerError`."""
    flat = np.asarray(ids).reshape(-1)
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < len(table):
        outside = int(flat.min()) if int(flat.min()) < 0 else int(flat.max())
        raise TokenizerError(
            f"id {outside} is outside the vocabulary of {len(table)}; use this model's tokenizer"
        )
    return map(table.__getitem__, flat.tolist())
