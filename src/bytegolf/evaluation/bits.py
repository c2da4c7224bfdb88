"""Bits per byte of a token stream under a model.

Shapes: N targets of a stream of N + 1 tokens; W windows in a batch, L tokens in a window.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bytegolf.errors import TextError
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.windows import Window, WindowPlan
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer
from bytegolf.training.record import bits_per_byte

#: Is told how many of how many targets are done.
Watch = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Watches nothing."""


@dataclass(frozen=True)
class Score:
    """The result of one pass. nats_N: float64, of each target in order; bytes_N: what each stands for."""

    plan: str
    nats_N: np.ndarray
    bytes_N: np.ndarray
    seconds: float

    @property
    def tokens(self) -> int:
        return len(self.nats_N)

    @property
    def bytes(self) -> int:
        return int(self.bytes_N.sum())

    @property
    def bits_per_byte(self) -> float:
        """Σ nats / (ln 2 · Σ bytes)."""
        return bits_per_byte(float(self.nats_N.sum()), self.bytes)

    @property
    def nats_per_token(self) -> float:
        return float(self.nats_N.mean())


def token_stream(tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Documents laid end to end: ids (N + 1,) int64 and the offsets of documents' starts.

    Each document is opened by bos, and a last bos closes the stream, so that the end of every document
    is predicted too.
    """
    parts, starts, length = [], [], 0
    for text in texts:
        ids = np.asarray(tokenizer.encode(text), dtype=np.int64)
        starts.append(length)
        parts += [np.array([tokenizer.bos]), ids]
        length += len(ids) + 1
    if length <= len(texts):
        raise TextError("there is nothing to score: the text is empty; give a text of at least one byte")
    return np.concatenate([*parts, [tokenizer.bos]]).astype(np.int64), np.array(starts, dtype=np.int64)


@torch.no_grad()
def score(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    starts: np.ndarray,
    plan: WindowPlan,
    *,
    adaptation: Adaptation | None = None,
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
) -> Score:
    """Scores every target of the stream `ids` (N + 1,) once.

    `starts`: offsets of documents' first tokens. With `adaptation`, a copy of the model learns from each
    chunk after its scores; a window belongs to the chunk of its first scored target. `tokens_per_pass` bounds
    the tokens of one forward pass (None: what suits the device), `watch` is told how many of the N targets
    are done. Sums are taken in float64.
    """
    began = time.perf_counter()
    track = Track.fixed() if adaptation is None else Track.adaptive()
    session = Session(tokenizer, ids, starts, track)
    windows = plan.windows(starts, session.targets)
    score_session(
        model, session, windows, adaptation=adaptation, tokens_per_pass=tokens_per_pass, watch=watch
    )
    name = plan.name if adaptation is None else f"{plan.name}, adaptive"
    ledger = session.close()
    return Score(name, ledger.nats, ledger.bytes, time.perf_counter() - began)


@torch.no_grad()
def score_session(
    model: LanguageModel,
    session: Session,
    windows: Iterator[Window],
    *,
    adaptation: Adaptation | None = None,
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
) -> None:
    """Scores these windows into the session; with `adaptation`, learning from each chunk (see `score`)."""
    if adaptation is None:
        score_windows(model, session, windows, tokens_per_pass, watch)
        return
    learner = adaptation.learner(model)
    for _, group in itertools.groupby(windows, key=lambda window: window.scored // learner.chunk):
        chunk = list(group)
        score_windows(learner.model, session, iter(chunk), tokens_per_pass, watch)
        if chunk[-1].stop < session.targets:
            learner.learn(session, [(chunk[0].scored, chunk[-1].stop)], chunk[-1].stop / session.targets)


@torch.no_grad()
def score_windows(
    model: LanguageModel,
    session: Session,
    windows: Iterator[Window],
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
) -> None:
    """Scores these windows into the session, several in one forward pass."""
    if tokens_per_pass is None:
        tokens_per_pass = 131_072 if model.device.type == "cuda" else 4_096
    done = session.scored
    for batch in _batches(windows, tokens_per_pass):
        length = max(window.stop - window.start for window in batch)
        spans_W3 = np.array([(window.start, window.scored, window.stop) for window in batch])
        index_WL = spans_W3[:, :1] + np.arange(length)
        counts_WL = (index_WL >= spans_W3[:, 1:2]) & (index_WL < spans_W3[:, 2:])
        # A short window is continued into the following tokens; being causal, its scores don't change.
        index = np.minimum(index_WL, session.targets - 1)
        (ids, is_start), wanted = session.inputs(index), session.wanted(index)
        inputs, targets = (torch.from_numpy(part).to(model.device) for part in (ids, wanted))
        nats_WL = model.losses(inputs, targets, torch.from_numpy(is_start)).double().cpu().numpy()
        session.record(index[counts_WL], nats_WL[counts_WL])
        done += int(counts_WL.sum())
        watch(done, session.targets)


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
