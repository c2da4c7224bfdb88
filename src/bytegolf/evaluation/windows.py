"""Which tokens are scored with which context: windows over a stream of tokens.

A stream of N + 1 tokens has N targets: target i is token i + 1, predicted from token i and what precedes
it. Every target is scored in exactly one window. Where a window begins never depends on where the text ends:
a decoder, which does not know the end, must be able to use the same windows.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class Window:
    """Inputs `start` to `stop` (exclusive) are read; targets `scored` to `stop` count."""

    start: int
    stop: int
    scored: int


class Plan(Protocol):
    """Which targets are scored with which context."""

    @property
    def name(self) -> str: ...

    @property
    def length(self) -> int:
        """Tokens of the longest window."""
        ...

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows over `targets` targets; `starts`: offsets of documents' first tokens."""
        ...


@dataclass(frozen=True)
class Chunked:
    """Windows of `length` tokens side by side; the first target of each sees one token of context."""

    length: int = 1024

    def __post_init__(self) -> None:
        _positive("length", self.length)

    @property
    def name(self) -> str:
        return f"chunked {self.length}"

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows over `targets` targets; `starts` (offsets of documents' first tokens) play no part."""
        return _sliding(0, targets, self.length, self.length)


@dataclass(frozen=True)
class Sliding:
    """Windows of `length` tokens that advance by `stride`: each scores its last `stride` targets.

    The first window scores all of its targets; the last one ends with the stream, a shorter window.
    """

    length: int = 1024
    stride: int = 64

    def __post_init__(self) -> None:
        _positive("length", self.length)
        _positive("stride", self.stride)
        if self.stride > self.length:
            raise RecipeError(
                f"stride={self.stride} is longer than length={self.length}: tokens would be skipped"
            )

    @property
    def name(self) -> str:
        return f"sliding {self.stride} of {self.length}"

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows over the stream as one text; documents in a window still do not see each other."""
        return _sliding(0, targets, self.length, self.stride)


@dataclass(frozen=True)
class PerDocument:
    """Each document on its own, in sliding windows of `length` tokens that advance by `stride`."""

    length: int = 1024
    stride: int = 64

    def __post_init__(self) -> None:
        Sliding(self.length, self.stride)

    @property
    def name(self) -> str:
        return f"per document, sliding {self.stride} of {self.length}"

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows that begin with their document, document after document."""
        for first, last in _documents(starts, targets):
            yield from _sliding(first, last, self.length, self.stride)


WindowPlan = Chunked | Sliding | PerDocument


@dataclass(frozen=True)
class DocumentChunks:
    """Each document on its own, `chunk` targets a window, which reaches back over at most `length` tokens.

    Where `chunk` divides `length`, contexts are those of `PerDocument(length, chunk)`; but no window scores
    more than a chunk, so that there is something to learn from between any two.
    """

    length: int
    chunk: int

    @property
    def name(self) -> str:
        return f"per document, chunks of {self.chunk} in {self.length}"

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows that begin with their document, document after document."""
        for first, last in _documents(starts, targets):
            for scored in range(first, last, self.chunk):
                end = scored + self.chunk
                yield Window(max(first, end - self.length), min(end, last), scored)


@dataclass(frozen=True)
class DocumentBlocks:
    """Each document on its own, `chunk` targets a window; windows of a block begin at the same place.

    A block reads on from its first token until `length` tokens are full; the next begins `stride` further on
    (None: half of `length`), or as much less as its first chunk needs. So what a window has read can be kept
    for the next.
    """

    length: int
    chunk: int
    stride: int | None = None

    @property
    def name(self) -> str:
        apart = "" if self.stride is None else f", {self.stride} apart"
        return f"per document, chunks of {self.chunk} in blocks of {self.length}{apart}"

    def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
        """Windows that begin with their document, document after document."""
        # A block begins no later than the chunk that did not fit into the one before.
        stride = max(1, min(self.stride or self.length // 2, self.length - self.chunk + 1))
        for first, last in _documents(starts, targets):
            for scored in range(first, last, self.chunk):
                beyond = scored + self.chunk - first - self.length
                begins = first + max(0, -(-beyond // stride)) * stride
                yield Window(begins, min(scored + self.chunk, last), scored)


def _documents(starts: np.ndarray, targets: int) -> Iterator[tuple[int, int]]:
    borders = sorted({0, *(int(start) for start in starts if start < targets), targets})
    return itertools.pairwise(borders)


def _sliding(first: int, last: int, length: int, stride: int) -> Iterator[Window]:
    scored = first
    while scored < last:
        # The first window scores everything in it; later ones end `stride` further on.
        end = first + length if scored == first else scored + stride
        yield Window(end - length, min(end, last), scored)
        scored = end


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise RecipeError(f"{name}={value}; give a positive number of tokens")
