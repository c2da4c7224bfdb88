"""Words whose ids are looked up, since text repeats them: where no merge reaches beyond a word.

A word is a run of letters, of ASCII digits, or of other characters, with the spaces in front of it. If no
piece holds the end of one and the beginning of the next, merges stay within words, and a text has the ids
of its words, whatever stands around them. Whether that is so is asked of the pieces, not assumed: trainers
cut so by default, but a model may have been trained otherwise.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

_FINE = re.compile(r" *(?:[^\W\d_]+|[0-9]+|(?:[^\w ]|_)+|[^ ])| +")
_COARSE = re.compile(r" *[^ ]+| +")
# Words that are remembered, some 100 bytes each; a process that meets more begins anew.
_MOST = 1 << 19
# Words learned at once: the library's memory grows with what it encodes, to about 40 bytes a byte.
_LEARNED_CHARACTERS = 50_000
#: Between words that are learned together. Like every ASCII character it is a byte, and merges with nothing.
SEPARATOR = "\x01"


def words_within(pieces: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern whose matches are the words of a text, so short that none of `pieces` reaches beyond one.

    pieces: all that merges make, with spaces as they are. None if one reaches over a space behind a word.
    """
    together = [piece for piece in pieces if len(piece) > 1]
    for words in (_FINE, _COARSE):
        if all(len(words.findall(piece)) == 1 for piece in together):
            return words
    return None


class WordIds:
    """The ids of texts by those of their words, which `encode` tells once. See `words_within`.

    separator: the id that `encode` gives `SEPARATOR`.
    """

    def __init__(self, words: re.Pattern[str], encode: Callable[[str], list[int]], separator: int) -> None:
        self._words, self._encode, self._separator = words, encode, separator
        self._known: dict[str, bytes] = {}

    def of(self, text: str) -> np.ndarray:
        """int32 (tokens,)."""
        words = self._words.findall(text)
        if len(self._known) > _MOST:
            self._known = {}
        # Another thread may begin anew meanwhile.
        known = self._known
        known.update(self._learned(set(words).difference(known)))
        return np.frombuffer(b"".join(map(known.__getitem__, words)), dtype=np.int32)

    def _learned(self, words: set[str]) -> Iterator[tuple[str, bytes]]:
        for some in _batches(words):
            ids = np.array(self._encode(SEPARATOR.join(some)), dtype=np.int32)
            stops = np.flatnonzero(ids == self._separator)
            if len(stops) != len(some) - 1:
                # A word holds the separator itself.
                yield from ((word, np.array(self._encode(word), dtype=np.int32).tobytes()) for word in some)
                continue
            borders = [-1, *stops.tolist(), len(ids)]
            flat, size = ids.tobytes(), ids.itemsize
            for word, (before, stop) in zip(some, itertools.pairwise(borders), strict=True):
                yield word, flat[(before + 1) * size : stop * size]


def _batches(words: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for word in words:
        batch.append(word)
        characters += len(word)
        if characters >= _LEARNED_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
