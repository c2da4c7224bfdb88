"""What every reader hands over and everything later consumes: a text with a name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text that stands alone: no model sees another document while it predicts this one."""

    text: str
    id: str


def text_digest(documents: Sequence[Document]) -> str:
    """SHA-256 over the SHA-256 of each document's UTF-8 bytes, in order.

    The names of documents play no part: text that was copied to another place is the same text.
    """
    each = (hashlib.sha256(document.text.encode()).digest() for document in documents)
    return hashlib.sha256(b"".join(each)).hexdigest()
