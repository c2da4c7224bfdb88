"""Clusters of documents that share much of their text, by the word 13-grams they have in common.

A word is a run of ASCII letters and digits (case ignored) and non-ASCII bytes. Words and 13-grams are hashed
to 64 bits by polynomials over the whole text at once. Very large corpora keep an equal sample of the hashes
of every document, so memory stays bounded.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bytegolf.text.documents import Document

GRAM_WORDS = 13
# Beyond this many 13-grams (about 400 MB while they are sorted), only a sample of the hashes is kept.
MAX_GRAMS = 16_000_000
# A document is compared with this many later ones that share a 13-gram: enough to chain the documents of a
# common licence text, and a bound on the work for 13-grams that stand everywhere.
MAX_NEIGHBOURS = 64
_CHUNK_BYTES = 4_000_000

_WORD_BASE = np.uint64(0x9E3779B97F4A7C15)
_WORD_INVERSE = np.uint64(pow(int(_WORD_BASE), -1, 1 << 64))
_GRAM_POWERS = [np.uint64(pow(0xD6E8FEB86659FD93, k, 1 << 64)) for k in range(GRAM_WORDS)]


def cluster(documents: Sequence[Document], threshold: float) -> np.ndarray:
    """int64 (documents,): the number of each document's cluster, counted from 0 in order of appearance.

    Two documents are linked if |A ∩ B| / min(|A|, |B|) >= `threshold` for their sets of 13-grams (one with
    fewer words has the gram of all its words), or if their texts are equal. Clusters are the connected
    components.
    """
    parents = list(range(len(documents)))
    first_with: dict[bytes, int] = {}
    for index, document in enumerate(documents):
        same = first_with.setdefault(hashlib.sha256(document.text.encode()).digest(), index)
        _unite(parents, same, index)
    grams, owners = _all_grams(documents)
    for first, second in _similar_pairs(grams, owners, len(documents), threshold):
        _unite(parents, first, second)
    roots = np.array([_root(parents, index) for index in range(len(documents))], dtype=np.int64)
    # A root is the smallest member, so sorted roots are in order of appearance.
    return np.unique(roots, return_inverse=True)[1]


def _similar_pairs(
    grams: np.ndarray, owners: np.ndarray, documents: int, threshold: float
) -> Iterator[tuple[int, int]]:
    """Pairs of documents that share enough; `grams` sorted by (hash, owner), without repeats."""
    sizes = np.bincount(owners, minlength=documents)
    pairs, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.arange(len(grams))
    for distance in range(1, MAX_NEIGHBOURS + 1):
        at = at[at + distance < len(grams)]
        at = at[grams[at] == grams[at + distance]]
        if not len(at):
            break
        found, times = np.unique(owners[at] * documents + owners[at + distance], return_counts=True)
        pairs, inverse = np.unique(np.concatenate([pairs, found]), return_inverse=True)
        counts = np.bincount(inverse, weights=np.concatenate([counts, times])).astype(np.int64)
    first, second = np.divmod(pairs, max(documents, 1))
    similar = counts >= threshold * np.minimum(sizes[first], sizes[second])
    yield from zip(first[similar].tolist(), second[similar].tolist(), strict=True)


def _all_grams(documents: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
    """uint64 hashes and int64 owners, sorted, each document's repeated 13-grams once."""
    grams, owners = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    waiting_count, limit = 0, np.uint64(0xFFFFFFFFFFFFFFFF)
    for texts, first in _chunks(documents):
        new_grams, new_owners = _chunk_grams(texts)
        kept = new_grams <= limit
        waiting.append((new_grams[kept], new_owners[kept] + first))
        waiting_count += int(kept.sum())
        if len(grams) + waiting_count > MAX_GRAMS:
            grams, owners = _sorted_unique(
                np.concatenate([grams, *(g for g, _ in waiting)]),
                np.concatenate([owners, *(o for _, o in waiting)]),
            )
            waiting, waiting_count = [], 0
            while len(grams) > MAX_GRAMS // 2:
                limit >>= np.uint64(1)
                kept = grams <= limit
                grams, owners = grams[kept], owners[kept]
    return _sorted_unique(
        np.concatenate([grams, *(g for g, _ in waiting)]), np.concatenate([owners, *(o for _, o in waiting)])
    )


def _chunks(documents: Sequence[Document]) -> Iterator[tuple[list[bytes], int]]:
    """(texts, number of the first): documents taken together up to a few megabytes."""
    texts: list[bytes] = []
    size = first = 0
    for index, document in enumerate(documents):
        if texts and size + len(document.text) > _CHUNK_BYTES:
            yield texts, first
            texts, size, first = [], 0, index
        texts.append(document.text.encode())
        size += len(texts[-1])
    if texts:
        yield texts, first


def _chunk_grams(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all 13-grams of some texts, and for each the index of its text."""
    # A separator behind every text, so that no word reaches into the next.
    letters = _LETTERS[np.frombuffer(b"\0".join([*texts, b""]), dtype=np.uint8)]
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts])
    inside = np.concatenate([[False], letters > 0])
    borders = np.flatnonzero(inside[1:] != inside[:-1])
    begins, ends = borders[::2], borders[1::2]
    owners = np.searchsorted(ends_of_texts, begins, side="right")
    words = _word_hashes(letters, begins, ends)
    counts = np.bincount(owners, minlength=len(texts))
    firsts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    # Short documents: one gram of all their words.
    lengths = np.minimum(counts[owners], GRAM_WORDS)
    position = np.arange(len(words)) - firsts[owners]
    starts = np.flatnonzero(position + lengths <= counts[owners])
    grams = np.zeros(len(starts), dtype=np.uint64)
    for offset, power in enumerate(_GRAM_POWERS):
        reaches = offset < lengths[starts]
        grams[reaches] += words[starts[reaches] + offset] * power
    return _mix(grams), owners[starts]


def _word_hashes(letters: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Σ letter_j · base^(j - begin) modulo 2^64 of each word, from one running sum."""
    powers = np.cumprod(np.full(len(letters), _WORD_BASE), dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(letters * powers, dtype=np.uint64)])
    inverse_powers = np.cumprod(np.full(len(letters), _WORD_INVERSE), dtype=np.uint64)
    return _mix((sums[ends] - sums[begins]) * inverse_powers[begins])


def _mix(values: np.ndarray) -> np.ndarray:
    # The finalizer of splitmix64: polynomials modulo 2^64 have weak low bits.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sorted_unique(grams: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Stable is enough: documents arrive in order, so equal hashes already stand in the order of their owners.
    order = np.argsort(grams, kind="stable")
    grams, owners = grams[order], owners[order]
    new = np.ones(len(grams), dtype=bool)
    new[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    return grams[new], owners[new]


def _letters() -> np.ndarray:
    """uint64 (256,): 0 for bytes between words, else a number that ignores the case of ASCII letters."""
    table = np.zeros(256, dtype=np.uint64)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


_LETTERS = _letters()


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _unite(parents: list[int], first: int, second: int) -> None:
    first, second = _root(parents, first), _root(parents, second)
    parents[max(first, second)] = min(first, second)
