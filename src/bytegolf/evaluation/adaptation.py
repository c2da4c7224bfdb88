"""Learning from a text while it is scored: test-time training on the adaptive track.

A learner gets tokens from a `Session`, which releases them only after their scores are written down; what it
changes is a copy of the model that lives as long as the session.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from bytegolf.errors import RecipeError
from bytegolf.evaluation.legality import Session
from bytegolf.model.spec import LanguageModel


class Learner(Protocol):
    """A model that learns from what has been scored."""

    model: LanguageModel
    chunk: int

    def learn(self, session: Session, spans: Sequence[tuple[int, int]], share: float) -> None:
        """Learns from the targets of `spans` (first, stop), once they are released.

        share: how much of the text has been scored, 0..1.
        """
        ...


@dataclass(frozen=True)
class ScoreFirstSgd:
    """SGD with momentum on all weights, after each `chunk` of scored tokens (golf challenge #461, #549).

    The chunk is cut into rows of `length` tokens, `rows` of them a step, `epochs` times. The rate falls over
    the text: learning_rate · (1 + cos(π · share)) / 2. Gradients are clipped to a global norm of `clip`;
    momentum lasts from chunk to chunk.
    """

    chunk: int = 32_768
    length: int = 1024
    rows: int = 32
    epochs: int = 3
    learning_rate: float = 0.002
    momentum: float = 0.9
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("chunk", "length", "rows", "epochs"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}; give a positive number")
        if self.learning_rate <= 0 or self.clip <= 0 or not 0 <= self.momentum < 1:
            raise RecipeError(
                f"learning_rate={self.learning_rate}, clip={self.clip}, momentum={self.momentum}: "
                "the first two must be positive, 0 ≤ momentum < 1"
            )

    def learner(self, model: LanguageModel) -> "SgdLearner":
        """A learner on a copy of `model`, which itself stays as it is."""
        return SgdLearner(self, copy.deepcopy(model))


class SgdLearner:
    """See `ScoreFirstSgd`."""

    def __init__(self, spec: ScoreFirstSgd, model: LanguageModel) -> None:
        self.spec, self.model, self.chunk = spec, model, spec.chunk
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.SGD(self._parameters, lr=spec.learning_rate, momentum=spec.momentum)

    def learn(self, session: Session, spans: Sequence[tuple[int, int]], share: float) -> None:
        parts = [session.release(first, stop) for first, stop in spans if stop > first]
        if not parts:
            return
        ids, targets, starts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # Spans of different streams lie side by side here and must not see each other.
        starts[np.cumsum([0, *(len(part[0]) for part in parts[:-1])])] = True
        rate = self.spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        size = self.spec.length * self.spec.rows
        with torch.enable_grad():
            for _ in range(self.spec.epochs):
                for first in range(0, len(ids), size):
                    self._step(*(array[first : first + size] for array in (ids, targets, starts)))

    def _step(self, ids: np.ndarray, targets: np.ndarray, starts: np.ndarray) -> None:
        length = self.spec.length
        whole = len(ids) // length * length
        # A rest shorter than a row is a row of its own: padding would need a mask for its loss.
        loss = torch.zeros((), device=self.model.device)
        for first, stop, width in ((0, whole, length), (whole, len(ids), max(1, len(ids) - whole))):
            if stop == first:
                continue
            ids_BT, targets_BT, starts_BT = (
                torch.from_numpy(array[first:stop]).view(-1, width) for array in (ids, targets, starts)
            )
            device = self.model.device
            loss = loss + self.model.losses(ids_BT.to(device), targets_BT.to(device), starts_BT).sum()
        self._optimizer.zero_grad(set_to_none=True)
        (loss / len(ids)).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.spec.clip)
        self._optimizer.step()


Adaptation = ScoreFirstSgd
