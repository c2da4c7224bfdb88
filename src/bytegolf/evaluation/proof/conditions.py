"""The four conditions that only a model and its scorer decide, in the order of their verdicts."""

from collections.abc import Callable, Iterator, Sequence

from bytegolf.evaluation.passes import Watch, silent
from bytegolf.evaluation.proof.causality import causality
from bytegolf.evaluation.proof.ledger import each_byte_once, order
from bytegolf.evaluation.proof.normalization import normalization
from bytegolf.evaluation.proof.subject import Passage, Subject, Taking
from bytegolf.evaluation.proof.verdict import Verdict


def conditions(
    subject: Subject,
    texts: Sequence[bytes],
    passage: Passage,
    taking: Taking,
    *,
    positions: int = 64,
    seed: int = 0,
    watching: Callable[[str], Watch] = lambda what: silent,
) -> Iterator[Verdict]:
    """Causality, normalization, each byte once, order.

    passage: the tokens of `texts`, taking: the pass in which they were scored. seed: draws the places to try;
    who doubts takes another. watching: a watch for what is
    being done, which is told (done, total).
    """
    yield causality(subject, passage, positions=positions, seed=seed, watch=watching("changing tokens …"))
    yield normalization(
        subject, passage, positions=positions, seed=seed, watch=watching("summing probabilities …")
    )
    yield each_byte_once(subject, texts, passage, taking)
    yield order(subject, taking)
