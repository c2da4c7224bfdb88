"""Adapters that learn from one document while it is scored, and are forgotten at its end.

Shapes: B documents side by side, L tokens of a window, C targets that count.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation.low_rank import attach
from bytegolf.evaluation.adaptation.repeatable import repeatable_gradients
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Watch, on_device, on_host, score_windows
from bytegolf.evaluation.windows import DocumentChunks, Plan, Window
from bytegolf.model.roles import MATRIX_ROLES, Role
from bytegolf.model.spec import LanguageModel

#: Tokens of a pass that keeps what its gradient needs, and documents in it.
_TOKENS_PER_PASS = {"cuda": 65_536, "cpu": 4_096}
_MOST_ROWS = 256
_SEED = 0

#: The windows of one document, first to last.
Document = Sequence[Window]


@dataclass(frozen=True)
class DocumentLora:
    """Low-rank adapters, each document its own, fresh at its start (golf challenge, entry of 2026-03-17).

    A document is scored `chunk` targets at a time, in windows that reach back over at most `length` tokens.
    After each chunk but the last, one step of Adam on the chunk's mean loss, by the gradient of the very pass
    that gave the scores. targets: roles of the matrices that have an adapter of `rank`; `head` is the output,
    tied or not. Documents of one chunk or less are only scored.
    """

    rank: int = 8
    targets: tuple[Role, ...] = (Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.HEAD)
    chunk: int = 256
    length: int = 1024
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95

    def __post_init__(self) -> None:
        for name in ("rank", "chunk"):
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
        allowed = [role for role in Role if role in MATRIX_ROLES or role == Role.HEAD]
        if not self.targets or not set(self.targets) <= set(allowed):
            raise RecipeError(
                f"targets={', '.join(self.targets) or 'none'}; name one or more of {', '.join(allowed)}"
            )

    def plan(self, headline: Plan) -> Plan:
        """Windows of its own: there must be something to learn from between any two of a document."""
        return DocumentChunks(self.length, self.chunk)

    def score(
        self,
        model: LanguageModel,
        session: Session,
        windows: Iterator[Window],
        tokens_per_pass: int | None,
        watch: Watch,
    ) -> None:
        """Scores these windows, each within a document, into the session, learning within each document."""
        documents = _by_document(session, windows)
        # Nothing is learned in a document of one window, so all of them may share the model without adapters.
        short = [document[0] for document in documents if len(document) == 1]
        score_windows(model, session, iter(short), tokens_per_pass, watch)
        learner = LoraLearner(self, model)
        if tokens_per_pass is None:
            tokens_per_pass = _TOKENS_PER_PASS.get(model.device.type, 4_096)
        longer = [document for document in documents if len(document) > 1]
        with repeatable_gradients(model.device):
            for batch in _batches(longer, tokens_per_pass):
                learner.score(session, batch, watch)


class LoraLearner:
    """See `DocumentLora`."""

    def __init__(self, spec: DocumentLora, model: LanguageModel) -> None:
        self._spec = spec
        self._model = copy.deepcopy(model).requires_grad_(False)
        self._adapters = attach(self._model, spec.targets, spec.rank, _SEED)

    def score(self, session: Session, documents: Sequence[Document], watch: Watch) -> None:
        """Scores documents side by side, window by window; those of most windows come first."""
        spec, model = self._spec, self._model
        dtype = next(model.parameters()).dtype
        weights = [
            factor
            for adapter in self._adapters
            for factor in adapter.restart(len(documents), model.device, dtype)
        ]
        optimizer = torch.optim.Adam(weights, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2))
        done = session.scored
        for number in range(len(documents[0])):
            windows = [document[number] for document in documents if len(document) > number]
            learning = sum(len(document) > number + 1 for document in documents)
            for adapter in self._adapters:
                adapter.rows = len(windows)
            with torch.set_grad_enabled(learning > 0):
                loss, count = self._score_windows(session, windows, learning)
            if learning:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            done += count
            watch(done, session.targets)

    def _score_windows(
        self, session: Session, windows: Sequence[Window], learning: int
    ) -> tuple[Tensor, int]:
        """Writes the scores down; what the first `learning` documents learn from, and how many scores."""
        device = self._model.device
        first_B, scored_B, stop_B = np.array([(w.start, w.scored, w.stop) for w in windows]).T
        count = int((stop_B - scored_B).max())
        length = int((scored_B - first_B).max()) + count
        places_BC = (scored_B - first_B)[:, None] + np.arange(count)
        index_BC = scored_B[:, None] + np.arange(count)
        counts_BC = index_BC < stop_B[:, None]
        # What lies behind a window is read too; the model being causal, it changes no score.
        index_BL = np.minimum(first_B[:, None] + np.arange(length), session.targets - 1)
        ids_BL, is_start_BL = session.inputs(index_BL)
        wanted_BC = session.wanted(np.minimum(index_BC, session.targets - 1))
        flat_BC = np.arange(len(windows))[:, None] * length + places_BC
        inputs, wanted, places = (
            on_device(part, device) for part in (ids_BL, wanted_BC.reshape(-1), flat_BC.reshape(-1))
        )
        nats_M = self._model.losses_at(inputs, wanted, on_host(is_start_BL, device), places)
        nats_BC = nats_M.detach().double().cpu().numpy().reshape(counts_BC.shape)
        session.record(index_BC[counts_BC], nats_BC[counts_BC])
        for window in windows[:learning]:
            # Their part in the pass that was scored is learned from; the session says whether it may be.
            session.release(window.scored, window.stop)
        weights_BC = counts_BC / counts_BC.sum(axis=1, keepdims=True)
        weights_BC[learning:] = 0.0
        return nats_M @ on_device(weights_BC.reshape(-1), device).to(nats_M.dtype), int(counts_BC.sum())


def _by_document(session: Session, windows: Iterator[Window]) -> list[list[Window]]:
    starts = session.starts
    documents = []
    for number, group in itertools.groupby(
        windows, key=lambda window: int(np.searchsorted(starts, window.scored, side="right")) - 1
    ):
        documents.append(list(group))
        assert all(window.start >= starts[number] for window in documents[-1]), "a window of two documents"
    return documents


def _batches(documents: Sequence[Document], tokens_per_pass: int) -> Iterator[list[Document]]:
    """Documents of like length together, those of most targets first; equal ones in the order of the text.

    The order is fixed by lengths alone. A batch's rows times its longest window stay within the bound.
    """
    ordered = sorted(
        documents, key=lambda document: (document[0].scored - document[-1].stop, document[0].scored)
    )
    batch: list[Document] = []
    longest = 0
    for document in ordered:
        if batch and (longest * (len(batch) + 1) > tokens_per_pass or len(batch) == _MOST_ROWS):
            yield batch
            batch = []
        if not batch:
            longest = max(window.stop - window.start for window in document)
        batch.append(document)
    if batch:
        yield batch
