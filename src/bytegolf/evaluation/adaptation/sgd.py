"""All weights learn from each chunk of the text once it is scored.

Shapes: S streams that are scored side by side, B rows of a step, T tokens of a row.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation.repeatable import repeatable_gradients
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Tilt, Watch, on_device, on_host, score_windows, silent
from bytegolf.evaluation.windows import Plan, Window
from bytegolf.model.spec import LanguageModel


@dataclass(frozen=True)
class ScoreFirstSgd:
    """SGD with momentum on all weights, after each `chunk` of scored tokens (golf challenge #461, #549).

    The chunk is cut into rows of `length` tokens, `rows` of them a step, `epochs` times. Of n chunks the rate
    after chunk i = 0 … n − 2 is learning_rate · (f + (1 − f) · (1 + cos(π · i / (n − 1))) / 2), f being
    `final_rate`; the last chunk is only scored. With f = 0, as published, rates depend on the text's length;
    f = 1 is a constant rate, which does not. Gradients are clipped to a global norm of `clip`; momentum lasts
    from chunk to chunk.
    """

    chunk: int = 32_768
    length: int = 1024
    rows: int = 32
    epochs: int = 3
    learning_rate: float = 0.002
    momentum: float = 0.9
    clip: float = 1.0
    final_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("chunk", "length", "rows", "epochs"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}; give a positive number")
        if self.learning_rate <= 0 or self.clip <= 0 or not 0 <= self.momentum < 1:
            raise RecipeError(
                f"learning_rate={self.learning_rate}, clip={self.clip}, momentum={self.momentum}: "
                "the first two must be positive, 0 ≤ momentum < 1"
            )
        if not 0 <= self.final_rate <= 1:
            raise RecipeError(
                f"final_rate={self.final_rate} is a share of learning_rate; give 0 to 1 (a constant rate)"
            )

    def plan(self, headline: Plan) -> Plan:
        """The windows of the score without learning."""
        return headline

    @property
    def separate_documents(self) -> int:
        """0: it learns after `chunk` tokens, wherever documents end."""
        return 0

    def learner(self, model: LanguageModel) -> "SgdLearner":
        """A learner on a copy of `model`, which itself stays as it is."""
        return SgdLearner(self, copy.deepcopy(model))

    def score(
        self,
        model: LanguageModel,
        session: Session,
        windows: Iterator[Window],
        tokens_per_pass: int | None,
        watch: Watch,
        tilt: Tilt | None = None,
    ) -> None:
        """Scores these windows into the session, learning between chunks."""
        learning = ChunkLearning(self, model, session, np.array([0]), session.targets)
        learning.score(((window.scored, [window]) for window in windows), tokens_per_pass, watch, tilt)


class SgdLearner:
    """See `ScoreFirstSgd`."""

    def __init__(self, spec: ScoreFirstSgd, model: LanguageModel) -> None:
        self.spec, self.model = spec, model
        self._parameters = list(model.parameters())
        self._momenta = [torch.zeros_like(parameter) for parameter in self._parameters]

    def learn(self, session: Session, spans: Sequence[tuple[int, int]], share: float) -> None:
        """Learns from the targets of `spans` (first, stop), once they are released; share: see `rate`."""
        parts = [session.release(first, stop) for first, stop in spans if stop > first]
        if not parts:
            return
        ids, targets, starts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # Spans of different streams lie side by side here and must not see each other.
        starts[np.cumsum([0, *(len(part[0]) for part in parts[:-1])])] = True
        size, rate = self.spec.length * self.spec.rows, self.rate(share)
        with torch.enable_grad(), repeatable_gradients(self.model.device):
            for _ in range(self.spec.epochs):
                for first in range(0, len(ids), size):
                    self._step(*(array[first : first + size] for array in (ids, targets, starts)), rate=rate)

    def rate(self, share: float) -> float:
        """The learning rate when `share` (0..1) of the way from its beginning to its end lies behind."""
        final = self.spec.final_rate
        return self.spec.learning_rate * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share)))

    def _step(self, ids: np.ndarray, targets: np.ndarray, starts: np.ndarray, *, rate: float) -> None:
        length, device = self.spec.length, self.model.device
        whole = len(ids) // length * length
        # A rest shorter than a row is a row of its own: padding would need a mask for its loss.
        loss = torch.zeros((), device=device)
        for first, stop, width in ((0, whole, length), (whole, len(ids), max(1, len(ids) - whole))):
            if stop == first:
                continue
            ids_BT, targets_BT = (
                on_device(array[first:stop], device).view(-1, width) for array in (ids, targets)
            )
            starts_BT = on_host(starts[first:stop], device).view(-1, width)
            loss = loss + self.model.losses(ids_BT, targets_BT, starts_BT).sum()
        self.model.zero_grad(set_to_none=True)
        (loss / len(ids)).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.spec.clip)
        self._move(rate)

    @torch.no_grad()
    def _move(self, rate: float) -> None:
        """m ← μ m + g; w ← w − rate · m, for all that have a gradient."""
        moved = [
            (w, m, w.grad) for w, m in zip(self._parameters, self._momenta, strict=True) if w.grad is not None
        ]
        weights, momenta, gradients = (list(column) for column in zip(*moved, strict=True))
        torch._foreach_mul_(momenta, self.spec.momentum)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(weights, momenta, alpha=-rate)


class ChunkLearning:
    """The model of one session, which learns whenever a window begins to score in another chunk.

    Streams of `steps` targets each, or one less, are scored side by side, their first targets at `base_S`. A
    chunk is made of the targets of all of them: step i belongs to chunk ⌊i · S / chunk⌋, and so does a window
    that scores from step i on, however far. Without a `spec` nothing ever learns.
    """

    def __init__(
        self,
        spec: ScoreFirstSgd | None,
        model: LanguageModel,
        session: Session,
        base_S: np.ndarray,
        steps: int,
    ) -> None:
        self._learner = None if spec is None else spec.learner(model)
        self.model = model if self._learner is None else self._learner.model
        self._session, self._base_S, self._steps = session, base_S, steps
        self._learned = 0

    def due(self, step: int) -> bool:
        """Whether a window that scores from `step` on belongs to a chunk after that of the last learning."""
        return self._learner is not None and self._chunk(step) > self._chunk(self._learned)

    def learn(self, step: int) -> None:
        """Learns from all targets before `step` that it has not learned from yet."""
        assert self._learner is not None
        spans = [(base + self._learned, base + step) for base in self._base_S.tolist()]
        last = self._chunk(self._steps - 1)
        self._learner.learn(self._session, spans, (self._chunk(step) - 1) / max(1, last))
        self._learned = step

    def score(
        self,
        windows: Iterator[tuple[int, list[Window]]],
        tokens_per_pass: int | None = None,
        watch: Watch = silent,
        tilt: Tilt | None = None,
    ) -> None:
        """Scores the windows that begin to score at each step, learning in between."""
        waiting: list[Window] = []
        for step, of_streams in windows:
            if self.due(step):
                score_windows(self.model, self._session, iter(waiting), tokens_per_pass, watch, tilt)
                waiting = []
                self.learn(step)
            waiting += of_streams
        score_windows(self.model, self._session, iter(waiting), tokens_per_pass, watch, tilt)

    def _chunk(self, step: int) -> int:
        assert self._learner is not None
        return step * len(self._base_S) // self._learner.spec.chunk
