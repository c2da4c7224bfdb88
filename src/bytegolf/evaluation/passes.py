"""Windows scored into a session, several in one forward pass.

Shapes: W windows in a batch, L tokens in a window, M targets that count.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.windows import Plan, Window
from bytegolf.model.spec import LanguageModel

#: Is told how many of how many targets are done.
Watch = Callable[[int, int], None]

#: Tokens of a forward pass that a device does well.
_TOKENS_PER_PASS = {"cuda": 131_072, "cpu": 4_096}


class Learning(Protocol):
    """How a model learns from a text while it is scored; see `bytegolf.evaluation.adaptation`."""

    def plan(self, headline: Plan) -> Plan:
        """The windows that are scored, where `headline` would be without learning."""
        ...

    def score(
        self,
        model: LanguageModel,
        session: Session,
        windows: Iterator[Window],
        tokens_per_pass: int | None,
        watch: Watch,
    ) -> None:
        """Scores these windows into the session, learning on the way from what has its score."""
        ...


class Tilt(Protocol):
    """What changes a model's distributions before they count; see `bytegolf.evaluation.adaptation`."""

    def nats(self, model: LanguageModel, h_MD: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        """−ln p (M,) of the targets `index_M`, whose ids are `targets_M`, from hidden states before them.

        Where the index is −1 any number will do.
        """
        ...

    def tilted_nats(self, logs_MV: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        """The same from all log-probabilities (M, V), where these are known."""
        ...


def silent(done: int, total: int) -> None:
    """Watches nothing."""


@contextmanager
def fitted(model: LanguageModel, length: int) -> Iterator[None]:
    """The model prepared for rows of up to `length` tokens, for as long as this lasts."""
    model.fit_rows(length)
    try:
        yield
    finally:
        model.fit_rows(None)


@torch.no_grad()
def score_windows(
    model: LanguageModel,
    session: Session,
    windows: Iterator[Window],
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
    tilt: Tilt | None = None,
) -> None:
    """Scores these windows into the session. The output head works only where a target counts.

    With `tilt` the scores are those of the distributions that it changed. The next pass is asked for before
    the scores of one are fetched, so that a GPU does not wait in between.
    """
    if tokens_per_pass is None:
        tokens_per_pass = _TOKENS_PER_PASS.get(model.device.type, 4_096)
    done = session.scored
    asked: _Pass | None = None
    for batch in _batches(windows, tokens_per_pass):
        following = _ask(model, session, batch, tilt)
        if asked is not None:
            done += asked.record(session)
            watch(done, session.targets)
        asked = following
    if asked is not None:
        done += asked.record(session)
        watch(done, session.targets)


def on_host(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the CPU; for a GPU in pinned memory, since copies from any other are waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on `device`, or on its way there."""
    return on_host(array, device).to(device, non_blocking=True)


class _Pass:
    """A forward pass that was asked for: nats_M of the targets `index_M`, perhaps not there yet."""

    def __init__(self, index_M: np.ndarray, nats_M: Tensor) -> None:
        self._index_M = index_M
        self._nats_M = nats_M.double().to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if nats_M.is_cuda else None
        if self._there is not None:
            self._there.record()

    def record(self, session: Session) -> int:
        """Writes the scores down; how many they are."""
        if self._there is not None:
            self._there.synchronize()
        session.record(self._index_M, self._nats_M.numpy())
        return len(self._index_M)


def _ask(model: LanguageModel, session: Session, batch: list[Window], tilt: Tilt | None) -> _Pass:
    length = max(window.stop - window.start for window in batch)
    spans_W3 = np.array([(window.start, window.scored, window.stop) for window in batch])
    index_WL = spans_W3[:, :1] + np.arange(length)
    places_M = np.flatnonzero((index_WL >= spans_W3[:, 1:2]) & (index_WL < spans_W3[:, 2:]))
    # A short window is continued into the following tokens; being causal, its scores don't change.
    index_WL = np.minimum(index_WL, session.targets - 1)
    index_M = index_WL.reshape(-1)[places_M]
    ids_WL, is_start_WL = session.inputs(index_WL)
    inputs, targets, places = (
        on_device(part, model.device) for part in (ids_WL, session.wanted(index_M), places_M)
    )
    is_start = on_host(is_start_WL, model.device)
    if tilt is None:
        return _Pass(index_M, model.losses_at(inputs, targets, is_start, places))
    h_MD = model.hidden_at(inputs, is_start, places)
    return _Pass(index_M, tilt.nats(model, h_MD, index_M, targets))


def _batches(windows: Iterator[Window], tokens_per_pass: int) -> Iterator[list[Window]]:
    """Windows grouped so that a group's rows times its longest window stay within `tokens_per_pass`."""
    group: list[Window] = []
    longest = 0
    for window in windows:
        longest_with = max(longest, window.stop - window.start)
        if group and longest_with * (len(group) + 1) > tokens_per_pass:
            yield group
            group, longest_with = [], window.stop - window.start
        group.append(window)
        longest = longest_with
    if group:
        yield group
