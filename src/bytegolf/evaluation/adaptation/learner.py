"""The loop of `DocumentLora` over documents side by side. Shapes: M targets, V vocabulary."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bytegolf.evaluation.adaptation.chunk import Chunk
from bytegolf.evaluation.adaptation.documents import Document
from bytegolf.evaluation.adaptation.fixed_passes import FixedPasses
from bytegolf.evaluation.adaptation.free_passes import ChunkPasses, FreePasses, Read
from bytegolf.evaluation.adaptation.low_rank import RowLowRank, shared_out
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Tilt, Watch
from bytegolf.model.spec import LanguageModel

if TYPE_CHECKING:
    from bytegolf.evaluation.adaptation.lora import DocumentLora


class LoraLearner:
    """Scores documents with a model in whose slots `adapters` are; see `DocumentLora`.

    `fixed` makes every step the same work on the same addresses, where the recipe allows it: see
    `FixedPasses`. By default on a GPU, which takes a third of the time for it; a CPU has nothing to record.
    """

    def __init__(
        self,
        spec: "DocumentLora",
        model: LanguageModel,
        adapters: Sequence[RowLowRank],
        tilt: Tilt | None,
        *,
        fixed: bool | None = None,
    ) -> None:
        self._spec, self._model, self._adapters, self._tilt = spec, model, adapters, tilt
        fixed = model.device.type == "cuda" if fixed is None else fixed
        # What a document's rows became is asked for by a warm start alone.
        self._fixed = fixed and spec.context == "kept" and spec.steps == 1 and spec.warm_start is None
        # An adapter of the output makes all log-probabilities anyway.
        self._whole = tilt is not None and model.head_adapter is not None
        self._kept_passes: FixedPasses | None = None
        self._finished: list[list[Tensor]] = []

    def score(self, session: Session, documents: Sequence[Document], watch: Watch) -> None:
        """Scores documents side by side, window by window; those of most windows come first."""
        spec, device = self._spec, self._model.device
        passes = self._passes(len(documents))
        done = session.scored
        for number in range(len(documents[0])):
            windows = [document[number] for document in documents if len(document) > number]
            learning = sum(len(document) > number + 1 for document in documents)
            passes.reach(session, windows)
            reread, shape = spec.context == "reread", passes.shape(len(windows))
            chunk = Chunk.of(session, windows, learning, device, reread=reread, shape=shape)
            for step in range(spec.steps if learning else 1):
                read = passes.read(chunk, learning, step)
                if not step:
                    chunk.record(session, self._scores(chunk, read))
                    # Their part in the pass that was scored is learned from, if the session lets it be.
                    for window in windows[:learning]:
                        session.release(window.scored, window.stop)
                if learning:
                    passes.learn(chunk, read, learning)
            done += chunk.count
            watch(done, session.targets)
        if spec.warm_start is not None:
            assert isinstance(passes, FreePasses)
            self._finished.append(passes.factors)

    def hand_on(self) -> None:
        """From now on A starts from the mean of what it became in the documents since the last time."""
        joined = [torch.cat(factors) for factors in zip(*self._finished, strict=True)]
        self._finished = []
        for adapter, own in shared_out(self._adapters, joined):
            adapter.start_from(own)

    def _passes(self, documents: int) -> ChunkPasses:
        """Passes over so many documents, none of which has been read."""
        if not self._fixed:
            return FreePasses(self._spec, self._model, self._adapters, documents, whole=self._whole)
        if self._kept_passes is None or self._kept_passes.documents < documents:
            self._kept_passes = None
            self._kept_passes = FixedPasses(
                self._spec, self._model, self._adapters, documents, whole=self._whole
            )
        else:
            self._kept_passes.restart()
        return self._kept_passes

    def _scores(self, chunk: Chunk, read: Read) -> Tensor:
        """−ln p (M,) as it counts; `read.nats_M` is what the adapters learn from."""
        if self._tilt is None:
            return read.nats_M
        if read.logs_MV is not None:
            return self._tilt.tilted_nats(read.logs_MV, chunk.index_M, chunk.wanted_M)
        return self._tilt.nats(self._model, read.h_MD, chunk.index_M, chunk.wanted_M)
