"""The next targets of documents side by side, as tensors.

Shapes: B documents, L tokens that are read, C targets that count, M = B · C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import on_device, on_host
from bytegolf.evaluation.windows import Window


@dataclass(frozen=True, eq=False)
class Chunk:
    """One window of each document, on the device but for `is_start_BL`; places are b · L + l.

    index_M: each place's target, −1 if it does not count. weights_M: of the loss that is learned from.
    """

    ids_BL: Tensor
    is_start_BL: Tensor
    wanted_M: Tensor
    places_M: Tensor
    weights_M: Tensor
    index_M: np.ndarray

    @staticmethod
    def of(
        session: Session,
        windows: Sequence[Window],
        learning: int,
        device: torch.device,
        *,
        reread: bool,
        shape: tuple[int, int] | None = None,
    ) -> "Chunk":
        """The tokens to read, from each window's start or, where that was read already, its first target.

        The loss is the mean over a document's targets, summed over the first `learning` documents. shape: at
        least so many documents and targets of each; those that there are not do not count.
        """
        there = len(windows)
        rows, most = shape or (there, 0)
        # A row too many reads what the first does.
        windows = [*windows, *[windows[0]] * (rows - there)]
        first_B, scored_B, stop_B = np.array([(w.start, w.scored, w.stop) for w in windows]).T
        if not reread:
            first_B = scored_B
        count = max(most, int((stop_B - scored_B).max()))
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
        counts_BC[there:] = False
        ids, wanted, places, weights = (
            on_device(part, device)
            for part in (ids_BL, wanted_BC.reshape(-1), flat_BC.reshape(-1), weights_BC.reshape(-1))
        )
        starts = on_host(is_start_BL, device)
        index_M = np.where(counts_BC, index_BC, -1).reshape(-1)
        return Chunk(ids, starts, wanted, places, weights, index_M)

    @property
    def count(self) -> int:
        """How many targets count."""
        return int((self.index_M >= 0).sum())

    def record(self, session: Session, nats_M: Tensor) -> None:
        """Writes the scores down."""
        counts_M = self.index_M >= 0
        session.record(self.index_M[counts_M], nats_M.detach().double().cpu().numpy()[counts_M])
