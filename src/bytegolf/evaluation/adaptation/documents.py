"""Documents as runs of windows: which are scored side by side, and in which order.

Every order is fixed by the text alone, so that what is learned before what never depends on time or device.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.windows import Window

#: The windows of one document, first to last.
Document = Sequence[Window]


def by_document(session: Session, windows: Iterator[Window]) -> list[Document]:
    """The windows of each document, in the order of the text."""
    starts = session.starts
    documents: list[Document] = []
    for number, group in itertools.groupby(
        windows, key=lambda window: int(np.searchsorted(starts, window.scored, side="right")) - 1
    ):
        document = list(group)
        assert all(window.start >= starts[number] for window in document), "a window of two documents"
        documents.append(document)
    return documents


def span(document: Document) -> tuple[int, int]:
    """A document's first target, and the one behind its last."""
    return document[0].scored, document[-1].stop


def longest_first(documents: Sequence[Document]) -> list[Document]:
    """Those of most targets first; equal ones in the order of the text."""
    return sorted(
        documents, key=lambda document: (document[0].scored - document[-1].stop, document[0].scored)
    )


def side_by_side(
    documents: Sequence[Document], tokens: Callable[[Window], int], tokens_per_pass: int, most: int
) -> Iterator[list[Document]]:
    """Documents cut into batches of at most `most`, whose rows times their longest are within a bound.

    The first document of a batch has the most windows. `tokens`: how long a row is for a window.
    """
    batch: list[Document] = []
    longest = 0
    for document in documents:
        if batch and (longest * (len(batch) + 1) > tokens_per_pass or len(batch) == most):
            yield batch
            batch = []
        if not batch:
            longest = max(map(tokens, document))
        batch.append(document)
    if batch:
        yield batch
