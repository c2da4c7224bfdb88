"""Passes over chunks as the same work on the same addresses every time, which a GPU records and replays.

A step of a small network with adapters is thousands of launches, which cost many times what their work does.
Shapes: B documents, C targets of each, M = B · C.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bytegolf.evaluation.adaptation.chunk import Chunk
from bytegolf.evaluation.adaptation.free_passes import (
    Read,
    context_before,
    fresh_optimizer,
    predict,
    read_context,
    use,
)
from bytegolf.evaluation.adaptation.low_rank import RowLowRank, shared_out
from bytegolf.evaluation.adaptation.row_adamw import RowAdamW
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.windows import Window
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Memory, Places, Stream

if TYPE_CHECKING:
    from bytegolf.evaluation.adaptation.lora import DocumentLora

#: Steps of one shape that run as written before it is recorded: libraries take workspaces on first use, and
#: what is seldom used is not worth a recording.
_REHEARSALS = 2


class FixedPasses:
    """`ChunkPasses` of up to `documents` documents, whose numbers are rounded up so that few shapes suffice.

    For a kept context and one step a chunk. Rows that are done go on moving, without a gradient: nothing may
    ask what became of them. whole: `Read.logs_MV` is wanted. On a CPU all runs as written.
    """

    def __init__(
        self,
        spec: "DocumentLora",
        model: LanguageModel,
        adapters: Sequence[RowLowRank],
        documents: int,
        *,
        whole: bool,
    ) -> None:
        assert spec.context == "kept"
        assert spec.steps == 1
        self._model, self._adapters, self._whole = model, adapters, whole
        self.documents, self._chunk = documents, spec.chunk
        self._optimizer = fresh_optimizer(spec, model, adapters, documents)
        self._inputs = _Inputs.of(documents, spec.chunk, model.device, next(model.parameters()).dtype)
        self._memory = self._with_room(spec.length + spec.chunk)
        self._recorder = _Recorder(model.device) if model.device.type == "cuda" else None
        self._steps: dict[int, _Step] = {}
        self._start = -1

    def restart(self) -> None:
        """Forgets all documents; addresses and recordings stay."""
        for adapter, own in shared_out(self._adapters, self._optimizer.factors):
            adapter.restart(own)
        self._optimizer.restart()
        self._start = -1

    def shape(self, documents: int) -> tuple[int, int] | None:
        return self._rows(documents), self._chunk

    def reach(self, session: Session, windows: Sequence[Window]) -> None:
        first = windows[0]
        # Documents begin their chunks together, so the first speaks for all.
        if first.start != self._start:
            self._start = first.start
            for tensor in self._memory.tensors.values():
                tensor.zero_()
            again = context_before(session, windows)
            if again:
                use(self._adapters, self._optimizer.leaves(len(windows)))
                read_context(self._model, session, windows, again, self._memory_of(len(windows)))
        self._inputs.first_1.fill_(first.scored - first.start)

    def read(self, chunk: Chunk, learning: int, step: int) -> Read:
        self._inputs.take(chunk)
        return self._step_of(chunk).read()

    def learn(self, chunk: Chunk, read: Read, learning: int) -> None:
        self._step_of(chunk).learn()

    def _rows(self, documents: int) -> int:
        """1, 2, 3, 4, 6, 8, 12, 16 and so on: the next of these."""
        power = 1 << (documents - 1).bit_length()
        return min(self.documents, 3 * power // 4 if documents <= 3 * power // 4 else power)

    def _step_of(self, chunk: Chunk) -> "_Step":
        rows = len(chunk.ids_BL)
        if rows not in self._steps:
            self._steps[rows] = _Step(
                self._model,
                self._adapters,
                self._optimizer,
                self._memory_of(rows),
                self._inputs.first_rows(rows),
                whole=self._whole,
                recorder=self._recorder,
            )
        return self._steps[rows]

    def _memory_of(self, rows: int) -> Memory:
        """The memory of the first rows, in the same rooms."""
        views = {key: tensor[:rows] for key, tensor in self._memory.tensors.items()}
        return Memory(self._memory.capacity, tensors=views)

    @torch.no_grad()
    def _with_room(self, capacity: int) -> Memory:
        """A memory whose rooms are taken, by a token of each document."""
        memory = Memory(capacity)
        inputs = self._inputs
        use(self._adapters, self._optimizer.factors)
        stream = Stream.of(inputs.is_start_BC[:, :1].cpu(), memory, device=self._model.device)
        self._model.hidden(inputs.ids_BC[:, :1], stream)
        return memory


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Where a step finds what it reads. first_1: how many tokens of its block have been read before."""

    ids_BC: Tensor
    is_start_BC: Tensor
    wanted_BC: Tensor
    weights_BC: Tensor
    first_1: Tensor

    @staticmethod
    def of(documents: int, chunk: int, device: torch.device, dtype: torch.dtype) -> "_Inputs":
        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(documents, chunk, dtype=dtype, device=device)

        ids_BC, wanted_BC = zeros(torch.int64), zeros(torch.int64)
        first_1 = torch.zeros(1, dtype=torch.int64, device=device)
        return _Inputs(ids_BC, zeros(torch.bool), wanted_BC, zeros(dtype), first_1)

    def first_rows(self, rows: int) -> "_Inputs":
        """Those of the first rows, in the same places."""
        return _Inputs(
            self.ids_BC[:rows],
            self.is_start_BC[:rows],
            self.wanted_BC[:rows],
            self.weights_BC[:rows],
            self.first_1,
        )

    def take(self, chunk: Chunk) -> None:
        """Fills the first rows."""
        rows = len(chunk.ids_BL)
        self.ids_BC[:rows].copy_(chunk.ids_BL)
        self.is_start_BC[:rows].copy_(chunk.is_start_BL, non_blocking=True)
        self.wanted_BC[:rows].copy_(chunk.wanted_M.view(rows, -1))
        self.weights_BC[:rows].copy_(chunk.weights_M.view(rows, -1))


class _Recorder:
    """Where steps run and are recorded: on a stream of their own, in memory that recordings share.

    Gradients flow on the stream on which their factors were first read, and what is recorded may wait for no
    other: so also the steps that run as written are run there.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Runs what is within on that stream, after what came before and before what comes next."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    @contextmanager
    def recording(self) -> Iterator[torch.cuda.CUDAGraph]:
        """Records what is within, which does not run."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            yield graph


class _Step:
    """Reading and learning of so many rows; with a recorder, each recorded once it has been rehearsed."""

    def __init__(
        self,
        model: LanguageModel,
        adapters: Sequence[RowLowRank],
        optimizer: RowAdamW,
        memory: Memory,
        inputs: _Inputs,
        *,
        whole: bool,
        recorder: _Recorder | None,
    ) -> None:
        self._model, self._adapters, self._whole = model, adapters, whole
        self._optimizer, self._memory, self._inputs = optimizer, memory, inputs
        self._leaves = optimizer.leaves(len(inputs.ids_BC))
        self._recorder, self._learned = recorder, 0
        self._reading: torch.cuda.CUDAGraph | None = None
        self._learning: torch.cuda.CUDAGraph | None = None
        self._found: Read | None = None

    def read(self) -> Read:
        use(self._adapters, self._leaves)
        if self._recorder is None:
            self._found = self._read()
        else:
            with self._recorder.aside():
                self._read_aside(self._recorder)
        assert self._found is not None
        return self._found

    def learn(self) -> None:
        """What was read last is learned from."""
        if self._recorder is None:
            self._learn()
        else:
            with self._recorder.aside():
                self._learn_aside(self._recorder)
        self._learned += 1

    def _read_aside(self, recorder: _Recorder) -> None:
        if self._learned < _REHEARSALS:
            self._found = self._read()
            return
        if self._reading is None:
            with recorder.recording() as self._reading:
                self._found = self._read()
        self._reading.replay()

    def _learn_aside(self, recorder: _Recorder) -> None:
        if self._reading is None:
            self._learn()
            return
        if self._learning is None:
            with recorder.recording() as self._learning:
                self._learn()
        self._learning.replay()

    @torch.enable_grad()
    def _read(self) -> Read:
        inputs, memory = self._inputs, self._memory
        assert memory.capacity is not None
        memory.places = Places.of(inputs.first_1, inputs.ids_BC.shape[1], memory.capacity)
        h_BCD = self._model.hidden(inputs.ids_BC, Stream.of_places(inputs.is_start_BC, memory))
        return predict(self._model, h_BCD.flatten(0, 1), inputs.wanted_BC.flatten(), whole=self._whole)

    @torch.enable_grad()
    def _learn(self) -> None:
        assert self._found is not None
        nats_M = self._found.nats_M
        loss = nats_M @ self._inputs.weights_BC.flatten().to(nats_M.dtype)
        gradients = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        self._optimizer.step(gradients, len(self._inputs.ids_BC))
        # The memory that gradients needed is free for the next shape's recording.
        self._found = Read(self._found.h_MD.detach(), nats_M.detach(), self._found.logs_MV)
