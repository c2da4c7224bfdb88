"""Clusters of documents that share much of their text, by the word 13-grams they have in common.

Very large corpora keep an equal sample of the hashes of every document, so memory stays bounded.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bytegolf.text.documents import Document
from bytegolf.text.ngrams import distinct_grams, gram_hashes, text_chunks

# Beyond this many 13-grams (about 400 MB while they are sorted), only a sample of the hashes is kept.
MAX_GRAMS = 16_000_000
# A document is compared with this many later ones that share a 13-gram: enough to chain the documents of a
# common licence text, and a bound on the work for 13-grams that stand everywhere.
MAX_NEIGHBOURS = 64


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
    for texts, first in text_chunks(documents):
        new_grams, new_owners = gram_hashes(texts)
        kept = new_grams <= limit
        waiting.append((new_grams[kept], new_owners[kept] + first))
        waiting_count += int(kept.sum())
        if len(grams) + waiting_count > MAX_GRAMS:
            grams, owners = distinct_grams(
                np.concatenate([grams, *(g for g, _ in waiting)]),
                np.concatenate([owners, *(o for _, o in waiting)]),
            )
            waiting, waiting_count = [], 0
            while len(grams) > MAX_GRAMS // 2:
                limit >>= np.uint64(1)
                kept = grams <= limit
                grams, owners = grams[kept], owners[kept]
    return distinct_grams(
        np.concatenate([grams, *(g for g, _ in waiting)]), np.concatenate([owners, *(o for _, o in waiting)])
    )


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _unite(parents: list[int], first: int, second: int) -> None:
    first, second = _root(parents, first), _root(parents, second)
    parents[max(first, second)] = min(first, second)
