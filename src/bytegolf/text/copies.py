"""Which training documents repeat so much of given validation documents that they must go.

A validation document counts as copied if at least a given share of its word 13-grams is in training. Those
whose hashes lie in the sketched sixty-fourth of the hash space (`ngrams.SKETCH_LIMIT`) are looked for, so
that a training text of any size is read once and nothing of it is kept. The documents that hold most of them
leave training, one by one, until it is copied no more. What many documents have in common, such as a
licence, is nobody's copy and no reason to leave.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bytegolf.text.documents import Document
from bytegolf.text.ngrams import (
    MIN_GRAMS,
    Hashes,
    Owners,
    are_among,
    distinct_sketch,
    sketched_grams,
    text_chunks,
)
from bytegolf.text.spread import processes_for, spread

#: A 13-gram that more training documents have is common to all.
_COMMON = 20


def copies(training: Sequence[Document], validation: Sequence[Document], share: float) -> set[int]:
    """Indices of the training documents to leave out. `share` as `Text.near_duplicate`, 0 to 1."""
    grams, owners = distinct_sketch(validation)
    sizes = np.bincount(owners, minlength=len(validation))
    held_by = _holders(training, np.unique(grams))
    of_document: dict[int, list[int]] = defaultdict(list)
    for gram, owner in zip(grams.tolist(), owners.tolist(), strict=True):
        if gram in held_by and sizes[owner] >= MIN_GRAMS:
            of_document[owner].append(gram)
    left_out: set[int] = set()
    for owner, shared in sorted(of_document.items()):
        while True:
            found = [holders for gram in shared if (holders := held_by[gram] - left_out)]
            if len(found) < share * int(sizes[owner]):
                break
            counts: dict[int, int] = defaultdict(int)
            for holders in found:
                for index in holders:
                    counts[index] += 1
            left_out.add(max(counts, key=lambda index: (counts[index], -index)))
    return left_out


def _holders(training: Sequence[Document], wanted: Hashes) -> dict[int, set[int]]:
    """Of each of the wanted 13-grams that few training documents hold, these."""
    held_by: dict[int, set[int]] = defaultdict(set)
    if not len(wanted):
        return {}
    processes = processes_for(sum(len(document.text) for document in training))
    for grams, owners in spread(functools.partial(_found, wanted), text_chunks(training), processes):
        for gram, owner in zip(grams.tolist(), owners.tolist(), strict=True):
            held_by[gram].add(owner)
    return {gram: holders for gram, holders in held_by.items() if len(holders) <= _COMMON}


def _found(wanted: Hashes, chunk: tuple[Sequence[bytes], int]) -> tuple[Hashes, Owners]:
    """The wanted 13-grams of some texts and the numbers of these, which begin where the chunk says."""
    texts, first = chunk
    grams, owners = sketched_grams(texts)
    kept = are_among(grams, wanted)
    return grams[kept], first + owners[kept]
