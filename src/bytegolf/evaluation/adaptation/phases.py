"""All weights learn, now and then, from the documents that are scored so far."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation.documents import Document, longest_first, span
from bytegolf.evaluation.adaptation.sgd import ScoreFirstSgd, SgdLearner
from bytegolf.evaluation.legality import Session
from bytegolf.model.spec import LanguageModel


@dataclass(frozen=True)
class Phases:
    """SGD on all weights at fixed places between documents (golf challenge #1610, #1626).

    The text is scored document by document in `order`: longest first, as published, or as they come. After
    ⌊prefix · (i + 1) / count⌋ documents, i = 0 … count − 1, phase i learns from all documents scored until
    then, those of earlier phases too, laid end to end in that order: chunks of `sgd.chunk` tokens, the rate
    falling over the chunks as `ScoreFirstSgd` says, momentum from zero. A phase with no document to follow
    does not take place.
    """

    prefix: int = 2500
    count: int = 3
    order: Literal["longest", "text"] = "longest"
    sgd: ScoreFirstSgd = ScoreFirstSgd(length=2048, rows=32, epochs=1, learning_rate=0.001)

    def __post_init__(self) -> None:
        if self.count < 1 or self.prefix < self.count:
            raise RecipeError(
                f"prefix={self.prefix}, count={self.count}; give at least one phase and a document for each"
            )

    @property
    def first(self) -> int:
        """Documents that are scored before anything is learned from others."""
        return self.prefix // self.count

    def sections(self, documents: Sequence[Document]) -> list[list[Document]]:
        """The documents in order, cut where phases take place."""
        ordered = longest_first(documents) if self.order == "longest" else list(documents)
        borders = [self.prefix * (phase + 1) // self.count for phase in range(self.count)]
        edges = [0, *(border for border in borders if border < len(ordered)), len(ordered)]
        return [ordered[first:stop] for first, stop in itertools.pairwise(edges)]

    def learn(self, model: LanguageModel, session: Session, documents: Sequence[Document]) -> None:
        """One phase: the model learns, in place, from these documents, all of which are scored."""
        chunks = list(_chunks([span(document) for document in documents], self.sgd.chunk))
        model.requires_grad_(True)
        learner = SgdLearner(self.sgd, model)
        for number, spans in enumerate(chunks):
            learner.learn(session, spans, number / max(1, len(chunks) - 1))
        model.requires_grad_(False)


def _chunks(spans: Sequence[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """The targets of the spans, `size` at a time; a span that is cut goes on in the next chunk."""
    chunk: list[tuple[int, int]] = []
    room = size
    for first, stop in spans:
        while stop - first >= room:
            yield [*chunk, (first, first + room)]
            first, chunk, room = first + room, [], size
        if stop > first:
            chunk.append((first, stop))
            room -= stop - first
    if chunk:
        yield chunk
