"""Passes over chunks as they come: as many rows and tokens as there are.

Shapes: B documents, M = B · C targets, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from bytegolf.evaluation.adaptation.chunk import Chunk
from bytegolf.evaluation.adaptation.low_rank import RowLowRank, shared_out
from bytegolf.evaluation.adaptation.row_adamw import RowAdamW
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import on_device, on_host
from bytegolf.evaluation.windows import Window
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Memory, Stream

if TYPE_CHECKING:
    from bytegolf.evaluation.adaptation.lora import DocumentLora


@dataclass(frozen=True, eq=False)
class Read:
    """What a pass over a chunk found: hidden states before its targets, their −ln p, and perhaps all ln p."""

    h_MD: Tensor
    nats_M: Tensor
    logs_MV: Tensor | None


class ChunkPasses(Protocol):
    """Reads documents side by side chunk by chunk, and moves their adapters.

    For each chunk: `reach` its windows, `read` it, and `learn` what the last reading asks for.
    """

    def shape(self, documents: int) -> tuple[int, int] | None:
        """The shape that the next chunk of so many documents must have; see `Chunk.of`."""
        ...

    def reach(self, session: Session, windows: Sequence[Window]) -> None:
        """Prepares for these windows: they go on where the last ones ended, or begin elsewhere."""
        ...

    def read(self, chunk: Chunk, learning: int, step: int) -> Read:
        """Reads a chunk, of which the first `learning` documents learn, for the `step`th time."""
        ...

    def learn(self, chunk: Chunk, read: Read, learning: int) -> None:
        """One step of the first `learning` documents."""
        ...


def predict(model: LanguageModel, h_MD: Tensor, wanted_M: Tensor, *, whole: bool) -> Read:
    """What the model makes of hidden states; `whole` if all log-probabilities are wanted."""
    if not whole:
        return Read(h_MD, model.nats(h_MD, wanted_M), None)
    logs_MV = model.distribution(h_MD)
    return Read(h_MD, torch.nn.functional.nll_loss(logs_MV, wanted_M, reduction="none"), logs_MV.detach())


def use(adapters: Sequence[RowLowRank], leaves: Sequence[Tensor]) -> None:
    """Lets the adapters act with these factors, in their order."""
    for adapter, own in shared_out(adapters, leaves):
        adapter.use(own)


def fresh_optimizer(
    spec: "DocumentLora", model: LanguageModel, adapters: Sequence[RowLowRank], documents: int
) -> RowAdamW:
    """The optimizer of the adapters of so many documents, with their factors as they start."""
    dtype = next(model.parameters()).dtype
    fresh = [adapter.fresh(documents, model.device, dtype) for adapter in adapters]
    return RowAdamW(
        [factor for factors in fresh for factor in factors],
        learning_rate=spec.learning_rate,
        beta1=spec.beta1,
        beta2=spec.beta2,
        epsilon=spec.epsilon,
        weight_decay=spec.weight_decay,
    )


def context_before(session: Session, windows: Sequence[Window]) -> int:
    """How many tokens all of these windows read before their first target."""
    again = windows[0].scored - windows[0].start
    assert all(window.scored - window.start == again for window in windows), "windows out of step"
    return again


@torch.no_grad()
def read_context(
    model: LanguageModel, session: Session, windows: Sequence[Window], tokens: int, memory: Memory
) -> None:
    """Reads the first `tokens` of every window into a memory."""
    index_BL = np.array([window.start for window in windows])[:, None] + np.arange(tokens)
    ids_BL, is_start_BL = session.inputs(index_BL)
    device = model.device
    stream = Stream.of(on_host(is_start_BL, device), memory, device=device)
    model.hidden(on_device(ids_BL, device), stream)


class FreePasses:
    """Shapes follow the documents; see `ChunkPasses`. whole: `Read.logs_MV` is wanted."""

    def __init__(
        self,
        spec: "DocumentLora",
        model: LanguageModel,
        adapters: Sequence[RowLowRank],
        documents: int,
        *,
        whole: bool,
    ) -> None:
        self._model, self._adapters, self._whole = model, adapters, whole
        self._optimizer = fresh_optimizer(spec, model, adapters, documents)
        self._kept = _Kept(model) if spec.context == "kept" else None
        self._leaves: list[Tensor] = []

    @property
    def factors(self) -> list[Tensor]:
        """A and B of every adapter as they are now."""
        return self._optimizer.factors

    def shape(self, documents: int) -> tuple[int, int] | None:
        return None

    def reach(self, session: Session, windows: Sequence[Window]) -> None:
        if self._kept is not None:
            self._use(len(windows))
            self._kept.reach(session, windows)

    def read(self, chunk: Chunk, learning: int, step: int) -> Read:
        self._use(len(chunk.ids_BL))
        with torch.set_grad_enabled(learning > 0):
            h_MD = self._hidden(chunk, None if self._kept is None else self._kept.memory(step))
            return predict(self._model, h_MD, chunk.wanted_M, whole=self._whole and not step)

    @torch.enable_grad()
    def learn(self, chunk: Chunk, read: Read, learning: int) -> None:
        loss = read.nats_M @ chunk.weights_M.to(read.nats_M.dtype)
        self._optimizer.step(torch.autograd.grad(loss, self._leaves, allow_unused=True), learning)

    def _use(self, rows: int) -> None:
        self._leaves = self._optimizer.leaves(rows)
        use(self._adapters, self._leaves)

    def _hidden(self, chunk: Chunk, memory: Memory | None) -> Tensor:
        """The hidden states (M, D) before every target; with `memory`, what is read continues it."""
        if memory is None:
            return self._model.hidden_at(chunk.ids_BL, chunk.is_start_BL, chunk.places_M)
        stream = Stream.of(chunk.is_start_BL, memory, device=chunk.ids_BL.device)
        return self._model.hidden(chunk.ids_BL, stream).flatten(0, 1).index_select(0, chunk.places_M)


class _Kept:
    """What documents side by side have read, as the layers keep it while decoding."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._start = -1
        self._before = self._after = Memory()

    def reach(self, session: Session, windows: Sequence[Window]) -> None:
        # Documents begin their chunks together, so the first speaks for all.
        if windows[0].start == self._start:
            rows = len(windows)
            kept = {key: value[:rows].detach() for key, value in self._after.tensors.items()}
            self._before = dataclasses.replace(self._after, tensors=kept)
            return
        self._start = windows[0].start
        self._before = Memory()
        again = context_before(session, windows)
        if again:
            read_context(self._model, session, windows, again, self._before)

    def memory(self, step: int) -> Memory:
        """A memory for one pass. What the first pass over a chunk has read is kept, scores being its."""
        memory = dataclasses.replace(self._before, tensors=dict(self._before.tensors))
        if not step:
            self._after = memory
        return memory
