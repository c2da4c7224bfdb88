"""Reading rows a token at a time: the decoding memory, and on a GPU one recorded graph for every token.

Shapes: B rows, T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Memory, Stream


class Reader:
    """Reads B rows side by side, at most `capacity` tokens of each (None: any), and predicts what follows.

    `begin` reads the first tokens of every row in one pass, `step` one more of each. `fixed` (by default on
    CUDA GPUs) makes every step the same work on the same addresses, whose launches are recorded once on a GPU
    and then replayed as one: a layer is some thirty launches, each of which costs more than its work does.
    Weights may change between tokens, in place.
    """

    def __init__(
        self, model: LanguageModel, rows: int, capacity: int | None, *, fixed: bool | None = None
    ) -> None:
        self._model, self._rows, self._device = model, rows, model.device
        wanted = self._device.type == "cuda" if fixed is None else fixed
        self._fixed = wanted and capacity is not None and capacity > 1
        self._memory = Memory(capacity)
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._fixed:
            self._ids_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=self._device)
            self._starts_B1 = torch.zeros(rows, 1, dtype=torch.bool, device=self._device)
            self._place_1 = torch.ones(1, dtype=torch.int64, device=self._device)
            if self._device.type == "cuda":
                self._record()

    @property
    def position(self) -> int:
        """How many tokens of each row have been read since `begin`."""
        return self._memory.position

    @torch.no_grad()
    def begin(self, ids_BT: Tensor, starts_BT: Tensor) -> Tensor:
        """Forgets what was read and reads T ≥ 1 tokens a row; log-probabilities (B, V) of what follows.

        starts_BT: bool, which of them begin a document. Both may lie on the CPU.
        """
        self._memory.restart()
        stream = Stream.of(starts_BT, self._memory, device=self._device)
        return self._predict(ids_BT.to(self._device), stream)

    @torch.no_grad()
    def step(self, ids_B: Tensor, starts_B: Tensor) -> Tensor:
        """Reads one more token a row; log-probabilities (B, V), which the next step may overwrite."""
        if not self._fixed:
            stream = Stream.of(starts_B[:, None], self._memory, device=self._device)
            return self._predict(ids_B[:, None].to(self._device), stream)
        assert self._memory.capacity is not None
        assert 0 < self._memory.position < self._memory.capacity
        self._place_1.fill_(self._memory.position)
        self._memory.position += 1
        self._ids_B1.copy_(ids_B[:, None])
        self._starts_B1.copy_(starts_B[:, None])
        if self._graph is None:
            return self._fixed_step()
        self._graph.replay()
        return self._logs_BV

    def _predict(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        return self._model.distribution(self._model.hidden(ids_BT, stream)[:, -1])

    def _fixed_step(self) -> Tensor:
        self._memory.place_1 = self._place_1
        try:
            stream = Stream.of_next(self._starts_B1, self._memory)
            return self._predict(self._ids_B1, stream)
        finally:
            self._memory.place_1 = None

    @torch.no_grad()
    def _record(self) -> None:
        # Before anything is read, so that what the rehearsals leave behind is forgotten by `begin`.
        self.begin(self._ids_B1, torch.ones(self._rows, 1, dtype=torch.bool))
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            # Libraries take their workspaces on first use, which must not happen while recording.
            for _ in range(2):
                self._fixed_step()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logs_BV = self._fixed_step()
