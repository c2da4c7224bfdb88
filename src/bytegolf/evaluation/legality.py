"""The rules of a score, kept by an object that every evaluation goes through.

A score counts if each token's distribution depends on the model and the tokens before it only, sums to one
over the whole alphabet, is taken before anything learns from the token, and is taken once, from left to
right. A `Session` holds the last two: it hands out tokens, takes scores, and gives a token away for learning
only once its score is written down. The first two are properties of a model, which `evaluation.proof` tests;
all four together are what a lossless round trip shows (`evaluation.codec`).

Target i of a stream of N + 1 tokens is token i + 1, predicted from token i and what precedes it.
"""

from dataclasses import dataclass

import numpy as np

from bytegolf.errors import LegalityError
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.tokenizer import Tokenizer

#: Rounding may put the probability of a certain token above 1 by this much.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Track:
    """What a predictor may do with tokens that have their score: nothing (fixed), or learn from them."""

    learns: bool

    @staticmethod
    def fixed() -> "Track":
        """The model stays as it is; only the tokens in its window are context."""
        return Track(learns=False)

    @staticmethod
    def adaptive() -> "Track":
        """The model may change by what has been scored."""
        return Track(learns=True)


@dataclass(frozen=True, eq=False)
class Ledger:
    """Every target of a stream with its score. Arrays (N,), not writable.

    nats: float64, −ln p. bytes: int64, what each target stands for. passes: int64, in which call of
    `Session.record` it was scored, counted from 0. counted: bool, False where a target is no part of the
    text.
    """

    nats: np.ndarray
    bytes: np.ndarray
    passes: np.ndarray
    counted: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.counted.sum())

    @property
    def total_bytes(self) -> int:
        return int(self.bytes[self.counted].sum())

    @property
    def total_nats(self) -> float:
        return float(self.nats[self.counted].sum())


class Session:
    """One evaluation of one stream.

    Every rule that is broken raises `LegalityError`: reading or learning from a token before its score,
    scoring twice, skipping inside a document, a score that is not a number or negative, an end with gaps.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: np.ndarray,
        starts: np.ndarray,
        track: Track,
        *,
        counted: np.ndarray | None = None,
        known: bool = True,
    ) -> None:
        """`ids` (N + 1,): documents laid end to end; `starts`: offsets of their first tokens, 0 among them.

        `counted` (N,) bool leaves out targets that are no part of the text. With `known` False, `ids` holds
        the right ids at `starts` only, and the others come with their scores, as in a decoder.
        """
        self._tokenizer, self.track = tokenizer, track
        self._ids = np.array(ids, dtype=np.int64)
        targets = len(self._ids) - 1
        self._is_start = np.zeros(targets + 1, dtype=bool)
        self._is_start[starts] = True
        assert targets >= 0
        assert self._is_start[0]
        self._known = np.full(targets + 1, known)
        self._known |= self._is_start
        self._counted = np.ones(targets, dtype=bool) if counted is None else counted.copy()
        # Zeros take no memory until they are written: a decoder is told the number of tokens by a stranger.
        self._nats = np.zeros(targets)
        self._passes = np.zeros(targets, dtype=np.int32)
        self._calls = self._scored = 0

    @property
    def targets(self) -> int:
        return len(self._nats)

    @property
    def starts(self) -> np.ndarray:
        """Offsets of the documents' first tokens."""
        return np.flatnonzero(self._is_start)

    @property
    def scored(self) -> int:
        """How many targets have their score."""
        return self._scored

    def inputs(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids at these offsets and whether they begin a document; both shaped like `index`."""
        self._require_known(index)
        return self._ids[index], self._is_start[index]

    def wanted(self, index: np.ndarray) -> np.ndarray:
        """The ids of these targets, to be looked up in a finished distribution; shaped like `index`."""
        self._require_known(index + 1)
        return self._ids[index + 1]

    def record(self, index: np.ndarray, nats: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Writes down one pass: −ln p (M,) of the targets `index` (M,).

        A target must follow one that is scored, in this pass or before, or be the first of its document.
        `ids` (M,): what the targets turned out to be, where the session did not know them.
        """
        if len(index) and (index.min() < 0 or index.max() >= self.targets):
            raise LegalityError(
                f"scores for targets {index.min()} to {index.max()} of a text of {self.targets}; "
                "there are none beyond its end"
            )
        twice = index[self._passes[index] > 0]
        if len(twice) or len(np.unique(index)) < len(index):
            named = f"target {twice.min()}" if len(twice) else "a target"
            raise LegalityError(f"{named} is scored a second time; the first score stands")
        wrong = ~np.isfinite(nats) | (nats < -_ROUNDING)
        if wrong.any():
            odd = int(np.argmax(wrong))
            raise LegalityError(
                f"the score of target {index[odd]} is {nats[odd]:g} nats; a probability lies between 0 and 1"
            )
        in_order = self._is_start[index] | (self._passes[index - 1] > 0) | np.isin(index - 1, index)
        if not in_order.all():
            skipped = int(index[~in_order].min())
            raise LegalityError(
                f"target {skipped} is scored before target {skipped - 1}; "
                "a document is scored from left to right"
            )
        if ids is not None:
            self._ids[index + 1] = ids
            self._known[index + 1] = True
        self._require_known(index + 1)
        self._nats[index] = nats
        self._scored += len(index)
        self._calls += 1
        self._passes[index] = self._calls

    def release(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens to learn from: inputs, targets and document starts of the targets `first` to `stop`."""
        if not self.track.learns:
            raise LegalityError("learning from a text on the fixed track; adaptive tracks alone may")
        if not 0 <= first <= stop <= self.targets:
            raise LegalityError(f"learning from targets {first} to {stop} of a text of {self.targets}")
        unscored = self._passes[first:stop] == 0
        if unscored.any():
            raise LegalityError(f"learning from target {first + int(np.argmax(unscored))} before its score")
        span = slice(first, stop)
        return self._ids[span].copy(), self._ids[first + 1 : stop + 1].copy(), self._is_start[span].copy()

    def close(self) -> Ledger:
        """The finished ledger."""
        missing = self._counted & (self._passes == 0)
        if missing.any():
            raise LegalityError(
                f"{int(missing.sum())} of {int(self._counted.sum())} targets have no score, "
                f"the first is {int(np.argmax(missing))}"
            )
        counts = byte_counts(self._tokenizer, self._ids[1:], previous=int(self._ids[0]))
        ledger = Ledger(
            self._nats.copy(),
            counts.astype(np.int64),
            self._passes.astype(np.int64) - 1,
            self._counted.copy(),
        )
        for array in (ledger.nats, ledger.bytes, ledger.passes, ledger.counted):
            array.flags.writeable = False
        return ledger

    def _require_known(self, index: np.ndarray) -> None:
        if not self._known[index].all():
            unknown = np.asarray(index)[~self._known[index]]
            raise LegalityError(f"token {int(unknown.min())} is read before it is decoded")
