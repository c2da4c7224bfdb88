"""Holding out documents, so that no near copy of a held-out text is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bytegolf.errors import TextError
from bytegolf.text.documents import Document
from bytegolf.text.near_duplicates import cluster


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to score, both in their original order."""

    training: list[Document]
    validation: list[Document]
    clusters: int
    """Groups of near duplicates, single documents included, that the documents fall into."""
    dropped: int = 0
    """Training documents left out because they equal a given validation text, or repeat much of it."""


def split_documents(
    documents: Sequence[Document], *, held_out: float, seed: int, near_duplicate: float = 0.1
) -> Split:
    """Holds out about the share `held_out` of all bytes; deterministic in `seed`.

    Documents that share at least the share `near_duplicate` of their word 13-grams, of the smaller one's,
    stay on one side, and so do equal ones. Clusters are walked in an order drawn from `seed`, and one is
    held out if that brings the held-out bytes closer to the share asked for.

    Raises `TextError` if there is nothing to split: no text, one document, or one cluster.
    """
    assert 0 < held_out < 1
    if not documents:
        raise TextError("the text is empty; give files that hold some")
    remedy = "cut it with cut_bytes, or give separate validation files"
    if len(documents) == 1:
        raise TextError(f"the text is one document ({documents[0].id}), which cannot be split; {remedy}")
    clusters = cluster(documents, near_duplicate)
    count = int(clusters.max()) + 1
    if count == 1:
        raise TextError(
            f"all {len(documents)} documents are near duplicates of one another and cannot be split; "
            "give more varied text, raise near_duplicate, or give separate validation files"
        )
    sizes = np.bincount(clusters, weights=[len(document.text.encode()) for document in documents])
    chosen = _choose(sizes, held_out * float(sizes.sum()), seed)
    pairs = list(zip(documents, chosen[clusters].tolist(), strict=True))
    return Split(
        training=[document for document, is_held_out in pairs if not is_held_out],
        validation=[document for document, is_held_out in pairs if is_held_out],
        clusters=count,
    )


def _choose(sizes: np.ndarray, target: float, seed: int) -> np.ndarray:
    """bool (clusters,): those to hold out; at least one, and never all."""
    chosen = np.zeros(len(sizes), dtype=bool)
    total, count = 0.0, 0
    for index in np.random.default_rng(seed).permutation(len(sizes)):
        closer = abs(total + sizes[index] - target) < abs(total - target)
        if closer and count < len(sizes) - 1:
            chosen[index] = True
            total, count = total + sizes[index], count + 1
    if not count:
        chosen[int(np.argmin(sizes))] = True
    return chosen
