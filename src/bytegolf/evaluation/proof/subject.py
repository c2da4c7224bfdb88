"""What is put to the test: a model with the parts that turn a text into a score.

Each part can be another one than the product's own: that is how the tests of this folder cheat.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from bytegolf.errors import LegalityError
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.bits import score_session, token_stream
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import Watch, silent
from bytegolf.evaluation.windows import Plan, Window
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.tokenizer import Tokenizer


class Scorer(Protocol):
    """Scores these windows of a session; see `evaluation.bits.score_session`."""

    def __call__(
        self, model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch
    ) -> None: ...


ByteCounter = Callable[[Tokenizer, np.ndarray, int | None], np.ndarray]


@dataclass(frozen=True, eq=False)
class Passage:
    """A stream of documents: ids (N + 1,) int64 with a last bos, and the offsets of documents' bos."""

    ids: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> "Passage":
        return Passage(*token_stream(tokenizer, texts))

    @property
    def targets(self) -> int:
        return len(self.ids) - 1

    @functools.cached_property
    def is_start(self) -> np.ndarray:
        """bool (N,): the inputs that begin a document."""
        flags = np.zeros(self.targets, dtype=bool)
        flags[self.starts] = True
        return flags


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and how it is scored. The defaults are what `bytegolf evaluate` uses.

    chunk: tokens after which a scorer of the adaptive track learns; 0 on the fixed track. documents: how many
    of one window each it scores before it learns from any of them; 0 leaves that to `chunk`.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    plan: Plan
    scorer: Scorer = score_session
    counts: ByteCounter = byte_counts
    track: Track = Track.fixed()
    chunk: int = 0
    documents: int = 0

    @staticmethod
    def adaptive(model: LanguageModel, tokenizer: Tokenizer, plan: Plan, adaptation: Adaptation) -> "Subject":
        """A model that learns from what has been scored, in the windows of `adaptation.plan(plan)`."""
        scorer = functools.partial(score_session, adaptation=adaptation)
        plan, chunk, documents = adaptation.plan(plan), adaptation.chunk, adaptation.separate_documents
        return Subject(
            model, tokenizer, plan, scorer, track=Track.adaptive(), chunk=chunk, documents=documents
        )

    @property
    def plan_name(self) -> str:
        return f"{self.plan.name}, adaptive" if self.track.learns else self.plan.name

    def windows(self, passage: Passage) -> Iterator[Window]:
        return self.plan.windows(passage.starts, passage.targets)

    def score(
        self, passage: Passage, *, windows: Iterator[Window] | None = None, watch: Watch = silent
    ) -> "Witness":
        """A session in which the passage was scored. Its error is set if a rule stopped it."""
        witness = Witness(self.tokenizer, passage.ids, passage.starts, self.track)
        try:
            self.scorer(
                self.model, witness, self.windows(passage) if windows is None else windows, watch=watch
            )
        except LegalityError as error:
            witness.error = str(error)
        return witness


class Witness(Session):
    """A session that remembers what was done to it, right or wrong.

    times (N,): how often each target was given a score. error: the rule that was broken, "" if none.
    """

    def __init__(self, tokenizer: Tokenizer, ids: np.ndarray, starts: np.ndarray, track: Track) -> None:
        super().__init__(tokenizer, ids, starts, track)
        self.times = np.zeros(self.targets, dtype=np.int64)
        self.error = ""

    @property
    def nats(self) -> np.ndarray:
        """float64 (N,): the scores, 0 where there is none."""
        return self._nats

    @property
    def passes(self) -> np.ndarray:
        """int64 (N,): in which call of `record` each target was scored, counted from 1."""
        return self._passes

    def record(self, index: np.ndarray, nats: np.ndarray, ids: np.ndarray | None = None) -> None:
        inside = index[(index >= 0) & (index < self.targets)]
        np.add.at(self.times, inside, 1)
        super().record(index, nats, ids)


@dataclass(frozen=True, eq=False)
class Taking:
    """One pass over the whole text: its session, and whether the model came out as it went in."""

    witness: Witness
    parameters_kept: bool
    parameters: str

    @property
    def complete(self) -> bool:
        """Whether every target has one score."""
        return not self.witness.error and bool((self.witness.times == 1).all())


def take(subject: Subject, passage: Passage, *, watch: Watch = silent) -> Taking:
    """Scores the whole text once."""
    before = parameter_digest(subject.model)
    witness = subject.score(passage, watch=watch)
    return Taking(witness, parameter_digest(subject.model) == before, before)


def parameter_digest(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + b"\0" + data.numpy().tobytes())
    return digest.hexdigest()
