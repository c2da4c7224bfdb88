"""What every reader hands over and everything later consumes: a text with a name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text that stands alone: no model sees another document while it predicts this one."""

    text: str
    id: str
