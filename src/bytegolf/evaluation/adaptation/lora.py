"""Adapters that learn from one document while it is scored, and are forgotten at its end."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation.documents import (
    Document,
    by_document,
    longest_first,
    side_by_side,
)
from bytegolf.evaluation.adaptation.learner import LoraLearner
from bytegolf.evaluation.adaptation.low_rank import adapted
from bytegolf.evaluation.adaptation.phases import Phases
from bytegolf.evaluation.adaptation.repeatable import repeatable_gradients
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Tilt, Watch, score_windows
from bytegolf.evaluation.windows import DocumentBlocks, DocumentChunks, Plan, Window
from bytegolf.model.roles import MATRIX_ROLES, Role
from bytegolf.model.spec import LanguageModel

#: Tokens of a pass that keeps what its gradient needs, and documents in it.
_TOKENS_PER_PASS = {"cuda": 65_536, "cpu": 4_096}
_MOST_ROWS = 256
#: Numbers that the adapters of a batch learn; with gradient and moments four times as many are in memory.
_MOST_ENTRIES = {"cuda": 1_000_000_000, "cpu": 100_000_000}
_SEED = 0
#: More documents than a text can have.
_ALL = 2**40


@dataclass(frozen=True)
class DocumentLora:
    """Low-rank adapters, each document its own, fresh at its start (golf challenge, entry of 2026-03-17).

    A document is scored `chunk` targets at a time, in windows that reach back over at most `length` tokens.
    After each chunk but the last, one step of Adam on the chunk's mean loss, by the gradient of the very pass
    that gave the scores. targets: roles of the matrices that have an adapter of `rank`; `head` is the output,
    tied or not. Documents of one chunk or less are only scored.

    alpha: adapters are scaled by alpha / rank; None for no scale (#1767). epsilon, weight_decay: AdamW's
    (#1530). steps: of gradient for a chunk; those after the first read it again, and score nothing. per_pass:
    a layer that loops has adapters for each of its passes. context: "reread", every chunk reads its window
    anew with the adapters of now, as published; "kept", what was read stays as it was and gradients reach
    back no further than the chunk, which costs a fraction. stride: once a kept context is full, the next
    begins so many tokens further on and the rest is read again (None: half of `length`). warm_start: after so
    many documents, longest first, A starts from the mean of what it became in them (B from zero); None always
    from the same. phases: all weights learn from whole documents as well.
    """

    rank: int = 8
    targets: tuple[Role, ...] = (Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.HEAD)
    chunk: int = 256
    length: int = 1024
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    alpha: float | None = None
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    steps: int = 1
    per_pass: bool = False
    context: Literal["reread", "kept"] = "reread"
    stride: int | None = None
    warm_start: int | None = None
    phases: Phases | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "chunk", "steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}; give a positive number")
        if self.length < self.chunk:
            raise RecipeError(
                f"length={self.length} is shorter than chunk={self.chunk}: tokens would be skipped"
            )
        if self.learning_rate <= 0 or not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1:
            raise RecipeError(
                f"learning_rate={self.learning_rate}, beta1={self.beta1}, beta2={self.beta2}: "
                "the first must be positive, 0 ≤ beta < 1"
            )
        if self.epsilon <= 0 or not 0 <= self.weight_decay * self.learning_rate < 1:
            raise RecipeError(
                f"epsilon={self.epsilon}, weight_decay={self.weight_decay}: the first must be positive, the "
                "second from 0 to below 1 / learning_rate"
            )
        if self.alpha is not None and self.alpha <= 0:
            raise RecipeError(f"alpha={self.alpha}; give a positive number, or None for no scale")
        if self.stride is not None and (self.context == "reread" or not 1 <= self.stride <= self.length):
            raise RecipeError(
                f'stride={self.stride}; give 1 to {self.length} tokens, with context "kept" alone, or None'
            )
        if self.warm_start is not None and self.warm_start < 1:
            raise RecipeError(f"warm_start={self.warm_start}; give a number of documents, or None")
        allowed = [role for role in Role if role in MATRIX_ROLES or role == Role.HEAD]
        if not self.targets or not set(self.targets) <= set(allowed):
            raise RecipeError(
                f"targets={', '.join(self.targets) or 'none'}; name one or more of {', '.join(allowed)}"
            )

    def plan(self, headline: Plan) -> Plan:
        """Windows of its own: there must be something to learn from between any two of a document."""
        if self.context == "reread":
            return DocumentChunks(self.length, self.chunk)
        return DocumentBlocks(self.length, self.chunk, self.stride)

    @property
    def separate_documents(self) -> int:
        """Documents of one window each that are scored before anything is learned from them."""
        return _ALL if self.phases is None else self.phases.first

    def score(
        self,
        model: LanguageModel,
        session: Session,
        windows: Iterator[Window],
        tokens_per_pass: int | None,
        watch: Watch,
        tilt: Tilt | None = None,
    ) -> None:
        """Scores these windows, each within a document, into the session, learning on the way."""
        documents = by_document(session, windows)
        sections = [documents] if self.phases is None else self.phases.sections(documents)
        if len(sections) > 1 or any(len(document) > 1 for document in documents):
            model = copy.deepcopy(model).requires_grad_(False)
        done: list[Document] = []
        for section in sections:
            if done and self.phases is not None:
                self.phases.learn(model, session, done)
            self._score_section(model, session, section, tokens_per_pass, watch, tilt)
            done += section

    def _score_section(
        self,
        model: LanguageModel,
        session: Session,
        documents: Sequence[Document],
        tokens_per_pass: int | None,
        watch: Watch,
        tilt: Tilt | None,
    ) -> None:
        """Documents between two phases: each learns by itself, but for what a warm start hands on."""
        # Nothing is learned in a document of one window, so all of them may share the model without adapters.
        short = [document[0] for document in documents if len(document) == 1]
        score_windows(model, session, iter(short), tokens_per_pass, watch, tilt)
        longer = longest_first([document for document in documents if len(document) > 1])
        if not longer:
            return
        device = model.device.type
        if tokens_per_pass is None:
            tokens_per_pass = _TOKENS_PER_PASS.get(device, 4_096)
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        generation = self.warm_start or len(longer)
        adapters = adapted(model, self.targets, self.rank, _SEED, scale=scale, per_pass=self.per_pass)
        with repeatable_gradients(model.device), adapters as learned:
            learner = LoraLearner(self, model, learned, tilt)
            most_entries = _MOST_ENTRIES.get(device, 100_000_000)
            most = max(1, min(_MOST_ROWS, most_entries // sum(adapter.entries for adapter in learned)))
            for first in range(0, len(longer), generation):
                batches = side_by_side(
                    longer[first : first + generation], self._tokens_read, tokens_per_pass, most
                )
                for batch in batches:
                    learner.score(session, batch, watch)
                if self.warm_start is not None:
                    learner.hand_on()

    def _tokens_read(self, window: Window) -> int:
        """Tokens of a pass that keeps what its gradient needs."""
        return window.stop - (window.start if self.context == "reread" else window.scored)
