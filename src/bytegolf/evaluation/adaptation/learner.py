"""The loop of `DocumentLora` over documents side by side.

Shapes: B documents, L tokens that are read, C targets that count, M = B · C.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bytegolf.evaluation.adaptation.documents import Document
from bytegolf.evaluation.adaptation.low_rank import RowLowRank
from bytegolf.evaluation.adaptation.row_adamw import RowAdamW
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Tilt, Watch, on_device, on_host
from bytegolf.evaluation.windows import Window
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Memory, Stream

if TYPE_CHECKING:
    from bytegolf.evaluation.adaptation.lora import DocumentLora


class LoraLearner:
    """Scores documents with a model in whose slots `adapters` are; see `DocumentLora`."""

    def __init__(
        self, spec: "DocumentLora", model: LanguageModel, adapters: Sequence[RowLowRank], tilt: Tilt | None
    ) -> None:
        self._spec, self._model, self._adapters, self._tilt = spec, model, adapters, tilt
        self._finished: list[list[Tensor]] = []

    def score(self, session: Session, documents: Sequence[Document], watch: Watch) -> None:
        """Scores documents side by side, window by window; those of most windows come first."""
        spec, device = self._spec, self._model.device
        dtype = next(self._model.parameters()).dtype
        factors = [adapter.fresh(len(documents), device, dtype) for adapter in self._adapters]
        optimizer = RowAdamW(
            [factor for pairs in factors for factor in pairs],
            learning_rate=spec.learning_rate,
            beta1=spec.beta1,
            beta2=spec.beta2,
            epsilon=spec.epsilon,
            weight_decay=spec.weight_decay,
        )
        kept = _Kept(self._model) if spec.context == "kept" else None
        done = session.scored
        for number in range(len(documents[0])):
            windows = [document[number] for document in documents if len(document) > number]
            learning = sum(len(document) > number + 1 for document in documents)
            leaves = self._use(optimizer, len(windows))
            if kept is not None:
                kept.reach(session, windows)
            chunk = _Chunk.of(session, windows, learning, device, reread=kept is None)
            for step in range(spec.steps if learning else 1):
                if step:
                    leaves = self._use(optimizer, len(windows))
                with torch.set_grad_enabled(learning > 0):
                    h_MD = chunk.hidden(self._model, None if kept is None else kept.memory(step))
                    nats_M = self._model.nats(h_MD, chunk.wanted_M)
                if not step:
                    chunk.record(session, self._scores(chunk, h_MD, nats_M))
                    # Their part in the pass that was scored is learned from, if the session lets it be.
                    for window in windows[:learning]:
                        session.release(window.scored, window.stop)
                if learning:
                    optimizer.step(chunk.gradients(nats_M, leaves), learning)
            done += chunk.count
            watch(done, session.targets)
        if spec.warm_start is not None:
            self._finished.append([a for pairs in factors for a in pairs])

    def hand_on(self) -> None:
        """From now on A starts from the mean of what it became in the documents since the last time."""
        joined = [torch.cat(factors) for factors in zip(*self._finished, strict=True)]
        self._finished = []
        for adapter in self._adapters:
            own, joined = joined[: adapter.factors], joined[adapter.factors :]
            adapter.start_from(own)

    def _scores(self, chunk: "_Chunk", h_MD: Tensor, nats_M: Tensor) -> Tensor:
        """−ln p (M,) as it counts; `nats_M` is what the adapters learn from."""
        if self._tilt is None:
            return nats_M
        return self._tilt.nats(self._model, h_MD, chunk.index_M, chunk.wanted_M)

    def _use(self, optimizer: RowAdamW, rows: int) -> list[Tensor]:
        """Lets the adapters act with the factors of the first `rows` rows, which are returned."""
        leaves = waiting = optimizer.leaves(rows)
        for adapter in self._adapters:
            own, waiting = waiting[: adapter.factors], waiting[adapter.factors :]
            adapter.use(own)
        return leaves


@dataclass(frozen=True)
class _Chunk:
    """One window of each document, on the device. index_M: each place's target, −1 if it does not count."""

    ids_BL: Tensor
    is_start_BL: Tensor
    wanted_M: Tensor
    places_M: Tensor
    weights_M: Tensor
    index_M: np.ndarray

    @staticmethod
    def of(
        session: Session, windows: Sequence[Window], learning: int, device: torch.device, *, reread: bool
    ) -> "_Chunk":
        """The tokens to read, from each window's start or, where that was read already, its first target.

        The loss is the mean over its targets, summed over the first `learning` documents.
        """
        first_B, scored_B, stop_B = np.array([(w.start, w.scored, w.stop) for w in windows]).T
        if not reread:
            first_B = scored_B
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
        weights_BC = counts_BC / counts_BC.sum(axis=1, keepdims=True)
        weights_BC[learning:] = 0.0
        ids, wanted, places, weights = (
            on_device(part, device)
            for part in (ids_BL, wanted_BC.reshape(-1), flat_BC.reshape(-1), weights_BC.reshape(-1))
        )
        starts = on_host(is_start_BL, device)
        index_M = np.where(counts_BC, index_BC, -1).reshape(-1)
        return _Chunk(ids, starts, wanted, places, weights, index_M)

    @property
    def count(self) -> int:
        return int((self.index_M >= 0).sum())

    def hidden(self, model: LanguageModel, memory: Memory | None) -> Tensor:
        """The hidden states (M, D) before every target; with `memory`, what is read continues it."""
        if memory is None:
            return model.hidden_at(self.ids_BL, self.is_start_BL, self.places_M)
        h_BLD = model.hidden(self.ids_BL, Stream.of(self.is_start_BL, memory, device=self.ids_BL.device))
        return h_BLD.flatten(0, 1).index_select(0, self.places_M)

    @torch.enable_grad()
    def gradients(self, nats_M: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Of what is learned from; None for a leaf that had no part in it."""
        loss = nats_M @ self.weights_M.to(nats_M.dtype)
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    def record(self, session: Session, nats_M: Tensor) -> None:
        """Writes the scores down."""
        counts_M = self.index_M >= 0
        session.record(self.index_M[counts_M], nats_M.detach().double().cpu().numpy()[counts_M])


class _Kept:
    """What documents side by side have read, as the layers keep it while decoding."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._start = -1
        self._before = self._after = Memory()

    def reach(self, session: Session, windows: Sequence[Window]) -> None:
        """Prepares for these windows: they go on where the last ones ended, or begin elsewhere."""
        # Documents begin their chunks together, so the first speaks for all.
        if windows[0].start == self._start:
            rows = len(windows)
            kept = {key: value[:rows].detach() for key, value in self._after.tensors.items()}
            self._before = dataclasses.replace(self._after, tensors=kept)
            return
        self._start = windows[0].start
        self._before = Memory()
        again = windows[0].scored - windows[0].start
        assert all(window.scored - window.start == again for window in windows), "windows out of step"
        if not again:
            return
        index_BL = np.array([window.start for window in windows])[:, None] + np.arange(again)
        ids_BL, is_start_BL = session.inputs(index_BL)
        device = self._model.device
        stream = Stream.of(on_host(is_start_BL, device), self._before, device=device)
        with torch.no_grad():
            self._model.hidden(on_device(ids_BL, device), stream)

    def memory(self, step: int) -> Memory:
        """A memory for one pass. What the first pass over a chunk has read is kept, scores being its."""
        memory = dataclasses.replace(self._before, tensors=dict(self._before.tensors))
        if not step:
            self._after = memory
        return memory
