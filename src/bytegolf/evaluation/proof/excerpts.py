"""Short passages from a text in which much happens: several documents, borders at odd places.

Shapes: B rows, T tokens in a row.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.evaluation.proof.subject import Passage, Subject

#: Shares of a passage that its documents take: unlike, so that borders fall inside windows.
_SHARES = (0.13, 0.41, 0.05, 0.27, 0.14)
#: Log-probabilities of one batch.
_BATCH_LOGITS = 1 << 24
_LEAST_ROW = 16
#: Tokens that documents beyond the tokens asked for share as the others share those.
_MORE_TOKENS = 256


def excerpt(
    subject: Subject, passage: Passage, tokens: int, generator: np.random.Generator, *, documents: int = 0
) -> Passage:
    """At least `tokens` tokens and `documents` documents: parts of random ones, each one of its own here."""
    ends = np.append(passage.starts[1:], passage.targets)
    filled = np.flatnonzero(ends - passage.starts > 1)
    parts, starts, length = [], [], 0
    for share in itertools.cycle(_SHARES):
        if length >= tokens and len(starts) >= documents:
            break
        room = 1 + int((tokens if length < tokens else min(tokens, _MORE_TOKENS)) * share)
        chosen = generator.choice(filled)
        first, stop = int(passage.starts[chosen]) + 1, int(ends[chosen])
        first = int(generator.integers(first, max(first, stop - room) + 1))
        starts.append(length)
        parts += [np.array([subject.tokenizer.bos]), passage.ids[first : min(stop, first + room)]]
        length += 1 + len(parts[-1])
    return Passage(np.concatenate([*parts, [subject.tokenizer.bos]]), np.array(starts, dtype=np.int64))


def longest_window(subject: Subject, passage: Passage) -> int:
    """Tokens of the longest of the plan's first windows."""
    found = zip(range(64), subject.windows(passage), strict=False)
    return max((window.stop - window.start for _, window in found), default=1)


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows as a model reads them. ids_BS: (B, T + 1) int64; starts_BT: bool, on the CPU."""

    ids_BS: Tensor
    starts_BT: Tensor

    @staticmethod
    def of(subject: Subject, passage: Passage, generator: np.random.Generator) -> "Rows":
        """As many rows of a window's length as memory allows; every second begins inside a document."""
        length = max(_LEAST_ROW, longest_window(subject, passage))
        rows = max(2, min(8, _BATCH_LOGITS // (length * subject.tokenizer.vocabulary)))
        ids, starts = [], []
        for row in range(rows):
            parts = excerpt(subject, passage, 2 * length, generator)
            first = int(generator.integers(1, parts.targets - length + 1)) if row % 2 else 0
            ids.append(parts.ids[first : first + length + 1])
            starts.append(parts.is_start[first : first + length])
        return Rows(torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(starts)))

    @property
    def length(self) -> int:
        return self.starts_BT.shape[1]

    def changed(
        self, changed_BS: Tensor, subject: Subject, generator: np.random.Generator
    ) -> tuple["Rows", Tensor]:
        """Other ids where `changed_BS` says, document starts kept; and what was really changed."""
        new = torch.from_numpy(other_ids(self.ids_BS.numpy(), subject, generator))
        really = changed_BS & (self.ids_BS != subject.tokenizer.bos)
        return Rows(torch.where(really, new, self.ids_BS), self.starts_BT), really

    @torch.no_grad()
    def scores(self, subject: Subject) -> tuple[Tensor, Tensor]:
        """Nats of the targets (B, T), and log-probabilities after every token (B, T, V)."""
        model = subject.model
        inputs, targets = (x.contiguous().to(model.device) for x in (self.ids_BS[:, :-1], self.ids_BS[:, 1:]))
        return model.losses(inputs, targets, self.starts_BT), model.log_probabilities(inputs, self.starts_BT)


def unaffected(changed_BS: np.ndarray, starts_BT: np.ndarray) -> np.ndarray:
    """bool (B, T): places before which nothing of their document is changed, nor the place itself."""
    changed_BT = changed_BS[:, : starts_BT.shape[1]]
    counts = np.cumsum(changed_BT, axis=1)
    # What was counted before the document of each place began; 0 for a row that begins inside one.
    before = np.where(starts_BT, counts - changed_BT, 0)
    return counts == np.maximum.accumulate(before, axis=1)


def other_ids(ids: np.ndarray, subject: Subject, generator: np.random.Generator) -> np.ndarray:
    """For every id a random other one, and never bos."""
    others, bos = subject.tokenizer.vocabulary - 1, subject.tokenizer.bos
    rank = ids - (ids > bos)
    rank = (rank + generator.integers(1, others, ids.shape)) % others
    return rank + (rank >= bos)
