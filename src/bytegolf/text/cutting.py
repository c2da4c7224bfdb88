"""Cutting a long text into documents whose concatenation is the text."""

import re

# Where to cut, from the best place to the worst: behind a paragraph, a line, a word.
_BEHIND = (re.compile(r"(?<=\n\n)(?!\n)"), re.compile(r"(?<=\n)"), re.compile(r"(?<= )"))


def cut_text(text: str, size: int) -> list[str]:
    """Pieces of at most `size` UTF-8 bytes (at least one character each), as large as their borders allow."""
    assert size > 0
    pieces = [text]
    for border in _BEHIND:
        pieces = [
            part for piece in pieces for part in (border.split(piece) if _bytes(piece) > size else [piece])
        ]
    shortest = max(1, size // 4)
    parts: list[str] = []
    for piece in pieces:
        if _bytes(piece) > size:
            parts += [piece[i : i + shortest] for i in range(0, len(piece), shortest)]
        elif piece:
            parts.append(piece)
    return _join_up_to(parts, size)


def _join_up_to(parts: list[str], size: int) -> list[str]:
    joined: list[str] = []
    current: list[str] = []
    current_bytes = 0
    for part in parts:
        part_bytes = _bytes(part)
        if current and current_bytes + part_bytes > size:
            joined.append("".join(current))
            current, current_bytes = [], 0
        current.append(part)
        current_bytes += part_bytes
    if current:
        joined.append("".join(current))
    return joined


def _bytes(text: str) -> int:
    return len(text.encode())
