"""Bits per byte of a token stream under a model.

Shapes: N targets of a stream of N + 1 tokens.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bytegolf.errors import TextError
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import Learning, Watch, fitted, score_windows, silent
from bytegolf.evaluation.windows import Plan, Window
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.ledger import bits_per_byte
from bytegolf.tokens.tokenizer import Tokenizer


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
    plan: Plan,
    *,
    adaptation: Learning | None = None,
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
) -> Score:
    """Scores every target of the stream `ids` (N + 1,) once.

    `starts`: offsets of documents' first tokens. With `adaptation`, a copy of the model learns from what has
    its score, and the windows are those of `adaptation.plan(plan)`. `tokens_per_pass` bounds the tokens of
    one forward pass (None: what suits the device), `watch` is told how many of the N targets are done. Sums
    are taken in float64.
    """
    began = time.perf_counter()
    track = Track.fixed() if adaptation is None else Track.adaptive()
    plan = plan if adaptation is None else adaptation.plan(plan)
    session = Session(tokenizer, ids, starts, track)
    windows = plan.windows(starts, session.targets)
    with fitted(model, plan.length):
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
    adaptation: Learning | None = None,
    tokens_per_pass: int | None = None,
    watch: Watch = silent,
) -> None:
    """Scores these windows into the session; with `adaptation`, whose windows they are, while learning."""
    if adaptation is None:
        score_windows(model, session, windows, tokens_per_pass, watch)
    else:
        adaptation.score(model, session, windows, tokens_per_pass, watch)
