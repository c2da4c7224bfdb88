"""Repeats in a document: the longest recent context that stood there before, and what followed it then.

A context is one to `LONGEST` tokens of one document, its bos not among them. They are told apart by 64-bit
hashes, the same ones for a whole text at once (`matches_of`) and for a token at a time (`Matcher`), so that
both find the same even where two contexts share a hash.

Shapes: N targets of a stream of N + 1 tokens, M of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Lengths of the contexts that are looked for.
ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
LONGEST = ORDERS[-1]
_MASK = (1 << 64) - 1
# Odd constants of splitmix64 (Steele, Lea and Flood 2014).
_ADD, _TIMES, _SHIFT = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 29


@dataclass(frozen=True, eq=False)
class Matches:
    """What the longest match says of each target; int64 arrays of one shape.

    ids: the token that followed the context's latest occurrence, −1 where nothing matches. lengths: tokens of
    the context. occurrences: how often it stood in the document before. followed: how often by that token.
    distances: how many tokens ago it was latest. All zero where nothing matches.
    """

    ids: np.ndarray
    lengths: np.ndarray
    occurrences: np.ndarray
    followed: np.ndarray
    distances: np.ndarray

    @staticmethod
    def none(shape: int | tuple[int, ...]) -> "Matches":
        return Matches(np.full(shape, -1), *(np.zeros(shape, dtype=np.int64) for _ in range(4)))

    def at(self, index: np.ndarray) -> "Matches":
        """Those of some targets."""
        return Matches(
            self.ids[index],
            self.lengths[index],
            self.occurrences[index],
            self.followed[index],
            self.distances[index],
        )


def matches_of(ids: np.ndarray, starts: np.ndarray) -> Matches:
    """For each of N targets of the stream `ids` (N + 1,), from the tokens before it in its document alone.

    `starts`: offsets of documents' first tokens. Every order is one stable sort of N hashes.
    """
    inputs = ids[:-1].astype(np.uint64)
    count = len(inputs)
    places = np.arange(count)
    document = np.zeros(count, dtype=np.int64)
    document[starts[starts < count]] = 1
    document = np.cumsum(document) - 1
    within = places - starts[document]
    found = Matches.none(count)
    hashes = np.zeros(count, dtype=np.uint64)
    waiting: np.ndarray | None = None
    for order in range(1, LONGEST + 2):
        older = np.zeros(count, dtype=np.uint64)
        older[order - 1 :] = inputs[: max(0, count - order + 1)]
        hashes = (hashes ^ (older + np.uint64(_ADD))) * np.uint64(_TIMES)
        hashes ^= hashes >> np.uint64(_SHIFT)
        if order not in ORDERS and waiting is None:
            continue
        latest, times = _earlier(hashes, document, np.flatnonzero(within >= order))
        if waiting is not None:
            # Context and follower are a context of one more, whose count is known where it stood latest.
            found.followed[waiting] = times[waiting - found.distances[waiting] + 1] + 1
            waiting = None
        if order in ORDERS:
            # Longer contexts come later and take the place of shorter ones.
            waiting = np.flatnonzero(latest >= 0)
            found.ids[waiting] = ids[latest[waiting] + 1]
            found.lengths[waiting] = order
            found.occurrences[waiting] = times[waiting]
            found.distances[waiting] = waiting - latest[waiting]
    return found


def _earlier(hashes: np.ndarray, document: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `places`: the latest one before it with its hash, −1 for none; and how many there are."""
    latest = np.full(len(hashes), -1, dtype=np.int64)
    times = np.zeros(len(hashes), dtype=np.int64)
    ordered = places[np.argsort(hashes[places], kind="stable")]
    before, after = ordered[:-1], ordered[1:]
    same = (hashes[before] == hashes[after]) & (document[before] == document[after])
    latest[after[same]] = before[same]
    rank = np.arange(len(ordered))
    first = np.where(np.concatenate([np.zeros(min(1, len(ordered)), dtype=bool), same]), 0, rank)
    times[ordered] = rank - np.maximum.accumulate(first) if len(ordered) else 0
    return latest, times


class Matcher:
    """The same for streams that are read a token at a time, as a decoder reads them."""

    def __init__(self, streams: int) -> None:
        self._streams = [_Stream() for _ in range(streams)]

    def read(self, ids_B: np.ndarray, starts_B: np.ndarray) -> Matches:
        """Reads one token of each of the first B streams; what the longest match says of the next one.

        starts_B: bool, whether the token begins a document.
        """
        rows = [
            stream.read(token, start)
            for stream, token, start in zip(self._streams, ids_B.tolist(), starts_B.tolist(), strict=False)
        ]
        return Matches(*np.array(rows, dtype=np.int64).reshape(len(rows), 5).T)


class _Stream:
    """One document: where each context ended latest, and how often it stood there."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._tokens: list[int] = []
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def read(self, token: int, start: bool) -> tuple[int, int, int, int, int]:
        if start:
            # The first token is bos, of which no context is made.
            self._begin()
            return -1, 0, 0, 0, 0
        tokens, seen = self._tokens, self._seen
        tokens.append(token)
        place = len(tokens) - 1
        hashes = _hashes(tokens, place)
        found = None
        for order in reversed(ORDERS):
            if order <= len(hashes) and (order, hashes[order - 1]) in seen:
                found = order, *seen[order, hashes[order - 1]]
                break
        for order in _KEPT:
            if order > len(hashes):
                break
            key = order, hashes[order - 1]
            seen[key] = place, seen.get(key, (0, 0))[1] + 1
        if found is None:
            return -1, 0, 0, 0, 0
        order, latest, times = found
        # The context with its follower, which may be the token that was just read.
        _, followed = seen[order + 1, _hashes(tokens, latest + 1)[order]]
        return tokens[latest + 1], order, times, followed, place - latest


_KEPT = sorted({*ORDERS, *(order + 1 for order in ORDERS)})


def _hashes(tokens: Sequence[int], place: int) -> list[int]:
    """Of the contexts of 1, 2, … tokens that end at `place`, as `matches_of` computes them."""
    value, found = 0, []
    for index in range(place, max(-1, place - LONGEST - 1), -1):
        value = ((value ^ ((tokens[index] + _ADD) & _MASK)) * _TIMES) & _MASK
        value ^= value >> _SHIFT
        found.append(value)
    return found
