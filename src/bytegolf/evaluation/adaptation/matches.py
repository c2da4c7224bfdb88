"""Repeats in a document: the longest recent context that stood there before, and what followed it then.

A context is one to `LONGEST` tokens of one document, its bos not among them; contexts are told apart by
hashes of 64 bits. `matches_of` takes a whole text at once, `Matcher` a token at a time. Both find the same;
an encoder and its decoder both use the second, so that no shared hash could come between them.

Shapes: N targets of a stream of N + 1 tokens, M of them.
"""

from dataclasses import dataclass

import numpy as np

#: Lengths of the contexts that are looked for.
ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
LONGEST = ORDERS[-1]
# Odd constants of splitmix64 (Steele, Lea and Flood 2014).
_ADD, _TIMES, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(29)


@dataclass(frozen=True, eq=False)
class Matches:
    """What the longest match says of each of M targets; int64 arrays (M,).

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
    def none(count: int) -> "Matches":
        return Matches(np.full(count, -1), *(np.zeros(count, dtype=np.int64) for _ in range(4)))

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
    repeated = np.ones(count, dtype=bool)
    for order in range(1, LONGEST + 2):
        older = np.zeros(count, dtype=np.uint64)
        older[order - 1 :] = inputs[: max(0, count - order + 1)]
        hashes = _longer(hashes, older)
        if order not in ORDERS and waiting is None:
            continue
        # What stands in its document once does so with more before it too.
        latest, times, repeated = _earlier(hashes, document, np.flatnonzero(repeated & (within >= order)))
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


def _earlier(
    hashes: np.ndarray, document: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `places`: the latest one before it with its hash, −1 for none, and how many there are.

    And, bool, whether there is another one at all, before or after.
    """
    latest = np.full(len(hashes), -1, dtype=np.int64)
    times = np.zeros(len(hashes), dtype=np.int64)
    repeated = np.zeros(len(hashes), dtype=bool)
    ordered = places[np.argsort(hashes[places], kind="stable")]
    before, after = ordered[:-1], ordered[1:]
    same = (hashes[before] == hashes[after]) & (document[before] == document[after])
    latest[after[same]] = before[same]
    repeated[after[same]] = repeated[before[same]] = True
    if len(ordered):
        rank = np.arange(len(ordered))
        rank[1:][same] = 0
        times[ordered] = np.arange(len(ordered)) - np.maximum.accumulate(rank)
    return latest, times, repeated


class Matcher:
    """The same for streams that are read a token at a time, as a decoder reads them."""

    def __init__(self, streams: int) -> None:
        self._recent_BL = np.zeros((streams, LONGEST), dtype=np.uint64)
        self._documents = [_Document() for _ in range(streams)]

    def read(self, ids_B: np.ndarray, starts_B: np.ndarray) -> Matches:
        """Reads one token of each of the first B streams; what the longest match says of the next one.

        starts_B: bool, whether the token begins a document.
        """
        recent_BL = self._recent_BL[: len(ids_B)]
        recent_BL[:, 1:] = recent_BL[:, :-1].copy()
        recent_BL[:, 0] = ids_B
        hashes_B, keys = np.zeros(len(ids_B), dtype=np.uint64), []
        for order in range(1, LONGEST + 1):
            hashes_B = _longer(hashes_B, recent_BL[:, order - 1])
            if order in ORDERS:
                keys.append(hashes_B)
        found = []
        tokens = zip(ids_B.tolist(), starts_B.tolist(), np.stack(keys, axis=1).tolist(), strict=True)
        for stream, (token, start, keys_K) in enumerate(tokens):
            if start:
                self._documents[stream] = _Document()
            found.append(_NOTHING if start else self._documents[stream].read(token, keys_K))
        return Matches(*np.array(found, dtype=np.int64).reshape(len(found), 5).T)


_NOTHING = (-1, 0, 0, 0, 0)


class _Document:
    """Where each context of a document ended latest and how often it stood there, and what followed it."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._seen: list[dict[int, tuple[int, int]]] = [{} for _ in ORDERS]
        self._followed: dict[tuple[int, int], int] = {}
        self._contexts: list[int] = []

    def read(self, token: int, keys_K: list[int]) -> tuple[int, int, int, int, int]:
        """keys_K: hashes of the contexts that end with `token`, shortest first."""
        tokens, followed, place = self._tokens, self._followed, len(self._tokens)
        for key in self._contexts:
            followed[key, token] = followed.get((key, token), 0) + 1
        tokens.append(token)
        # Contexts that reach back beyond the document are none.
        self._contexts = [key for key, order in zip(keys_K, ORDERS, strict=True) if order <= len(tokens)]
        answer = _NOTHING
        for order, seen, key in zip(ORDERS, self._seen, self._contexts, strict=False):
            if key in seen:
                latest, times = seen[key]
                follower = tokens[latest + 1]
                answer = follower, order, times, followed[key, follower], place - latest
                seen[key] = place, times + 1
            else:
                seen[key] = place, 1
        return answer


def _longer(hashes: np.ndarray, older: np.ndarray) -> np.ndarray:
    """Hashes of contexts that each reach one token further back, by the finalizer of splitmix64."""
    hashes = (hashes ^ (older + _ADD)) * _TIMES
    return hashes ^ (hashes >> _SHIFT)
