"""Normalization: the probabilities behind the scores sum to one, and the scores are those probabilities.

Shapes: B rows, T tokens in a row, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bytegolf.evaluation.passes import Watch, silent
from bytegolf.evaluation.proof.excerpts import Rows, excerpt, longest_window
from bytegolf.evaluation.proof.precision import mean_tolerance, score_tolerance
from bytegolf.evaluation.proof.subject import Passage, Subject
from bytegolf.evaluation.proof.verdict import NORMALIZATION, Verdict, failed, passed
from bytegolf.evaluation.windows import PerDocument

#: |ln Σ p| of one distribution, whose numbers are float32 at least.
SUM_TOLERANCE = 1e-5
#: Passes over the whole alphabet; the last applies to vocabularies beyond all.
_PROBES = ((1024, 4), (2048, 2))
_PROBE_TOKENS = 16


@dataclass
class Tally:
    """Worst errors in nats, signed mean of scores less −ln p, and how much was looked at."""

    distributions: int = 0
    worst_sum: float = 0.0
    scores: int = 0
    worst_score: float = 0.0
    total_difference: float = 0.0
    alphabets: int = 0
    worst_alphabet: float = 0.0

    @property
    def mean_difference(self) -> float:
        return self.total_difference / max(1, self.scores)

    def add_scores(self, nats: np.ndarray, expected: np.ndarray) -> None:
        difference = nats - expected
        self.scores += len(difference)
        self.worst_score = max(self.worst_score, float(np.abs(difference).max(initial=0.0)))
        self.total_difference += float(difference.sum())


def normalization(
    subject: Subject, passage: Passage, *, positions: int = 64, seed: int = 0, watch: Watch = silent
) -> Verdict:
    """Sums distributions at `positions` places or more, compares scores with them, and tries whole alphabets.

    An alphabet is tried by scoring one beginning with every id there is behind it: the scores are taken as
    they come, whatever made them, and their probabilities must sum to one.
    """
    generator = np.random.default_rng(seed + 1)
    tally = Tally()
    size = subject.tokenizer.vocabulary
    probes = next((count for most, count in _PROBES if size <= most), 1)
    while tally.distributions < positions:
        _rows(subject, passage, tally, generator)
        watch(min(tally.distributions, positions), positions + probes)
    if not subject.track.learns:
        _recorded(subject, passage, tally, generator)
    for number in range(probes):
        _alphabet(subject, passage, tally, generator)
        watch(positions + number + 1, positions + probes)
    return _verdict(subject, tally)


def _verdict(subject: Subject, tally: Tally) -> Verdict:
    score_limit, mean_limit = score_tolerance(subject.model), mean_tolerance(subject.model)
    alphabet_limit = max(SUM_TOLERANCE, mean_limit) * 4
    numbers: dict[str, Any] = {
        "distributions": tally.distributions,
        "worst_log_sum": tally.worst_sum,
        "log_sum_tolerance": SUM_TOLERANCE,
        "scores_compared": tally.scores,
        "worst_score_difference_nats": tally.worst_score,
        "score_tolerance_nats": score_limit,
        "mean_score_difference_nats": tally.mean_difference,
        "mean_tolerance_nats": mean_limit,
        "alphabets_tried": tally.alphabets,
        "vocabulary": subject.tokenizer.vocabulary,
        "worst_alphabet_sum_error": tally.worst_alphabet,
        "alphabet_tolerance": alphabet_limit,
    }
    if not tally.worst_sum <= SUM_TOLERANCE:
        return failed(
            NORMALIZATION,
            f"The probabilities after a token do not sum to 1: |ln sum| is {tally.worst_sum:.3g}, "
            f"{SUM_TOLERANCE:g} is allowed.",
            **numbers,
        )
    if not tally.worst_score <= score_limit or not abs(tally.mean_difference) <= mean_limit:
        return failed(
            NORMALIZATION,
            f"Scores are not the model's own −ln p: they differ by up to {tally.worst_score:.3g} nats "
            f"({score_limit:g} is allowed), by {tally.mean_difference:+.3g} on average ({mean_limit:g}).",
            **numbers,
        )
    if not tally.worst_alphabet <= alphabet_limit:
        return failed(
            NORMALIZATION,
            f"With every id in a target's place, the scored probabilities sum to 1 only within "
            f"{tally.worst_alphabet:.3g}; {alphabet_limit:g} is allowed.",
            **numbers,
        )
    return passed(
        NORMALIZATION,
        f"{tally.distributions:,} distributions sum to 1 (|ln sum| at most {tally.worst_sum:.1g}), "
        f"{tally.scores:,} scores are their −ln p, and with each of {subject.tokenizer.vocabulary:,} ids in "
        f"a target's place the scored probabilities sum to 1 within {tally.worst_alphabet:.1g}.",
        **numbers,
    )


def _rows(subject: Subject, passage: Passage, tally: Tally, generator: np.random.Generator) -> None:
    """The model on packed rows: all sums, and its loss beside its distribution."""
    rows = Rows.of(subject, passage, generator)
    nats_BT, logs_BTV = rows.scores(subject)
    for row in range(len(rows.ids_BS)):
        _sums(logs_BTV[row], tally)
        expected = _chosen(logs_BTV[row], rows.ids_BS[row, 1:])
        tally.add_scores(nats_BT[row].double().cpu().numpy(), expected)


def _recorded(subject: Subject, passage: Passage, tally: Tally, generator: np.random.Generator) -> None:
    """Scores as a session has them beside the distributions of the same windows, taken one by one."""
    part = excerpt(subject, passage, longest_window(subject, passage) + 64, generator)
    witness = subject.score(part)
    device = subject.model.device
    for window in subject.windows(part):
        span = slice(window.start, window.stop)
        ids = torch.from_numpy(part.ids[None, span]).to(device)
        with torch.no_grad():
            logs_TV = subject.model.log_probabilities(ids, torch.from_numpy(part.is_start[None, span]))[0]
        _sums(logs_TV, tally)
        expected = _chosen(logs_TV, torch.from_numpy(part.ids[window.start + 1 : window.stop + 1]))
        scored = slice(window.scored, window.stop)
        done = witness.times[scored] > 0
        tally.add_scores(witness.nats[scored][done], expected[window.scored - window.start :][done])


def _alphabet(subject: Subject, passage: Passage, tally: Tally, generator: np.random.Generator) -> None:
    """One beginning, continued by each id in a document of its own, all scored as a text is.

    Its second half says the first again, so that what goes by repeats has one to go by.
    """
    bos, size = subject.tokenizer.bos, subject.tokenizer.vocabulary
    part = excerpt(subject, passage, 4 * _PROBE_TOKENS, generator)
    beginning = part.ids[: _PROBE_TOKENS + 1].copy()
    beginning[1:][beginning[1:] == bos] = (bos + 1) % size
    half = (len(beginning) - 1) // 2
    beginning[half + 1 : 2 * half + 1] = beginning[1 : half + 1]
    length = len(beginning) + 1
    # On the adaptive track a session ends before it would learn, so that all ids meet the same model.
    together = subject.documents or (max(1, subject.chunk // length) if subject.chunk else size)
    plan = PerDocument(length, length)
    total = 0.0
    for first in range(0, size, together):
        last_N = np.arange(first, min(first + together, size))
        documents = np.concatenate([np.tile(beginning, (len(last_N), 1)), last_N[:, None]], axis=1)
        starts = np.arange(len(last_N)) * length
        stream = Passage(np.append(documents.reshape(-1), bos), starts)
        witness = subject.score(stream, windows=plan.windows(starts, stream.targets))
        # The last id is the target of the place before it; unscored ones, if any, count as impossible.
        targets = starts + length - 2
        total += float(np.exp(-witness.nats[targets])[witness.times[targets] > 0].sum())
    tally.alphabets += 1
    tally.worst_alphabet = max(tally.worst_alphabet, abs(total - 1.0))


def _sums(logs_TV: torch.Tensor, tally: Tally) -> None:
    worst = torch.logsumexp(logs_TV.double(), dim=-1).abs().max()
    tally.distributions += len(logs_TV)
    tally.worst_sum = max(tally.worst_sum, float(worst.nan_to_num(torch.inf)))


def _chosen(logs_TV: torch.Tensor, targets_T: torch.Tensor) -> np.ndarray:
    """−ln p of the targets, float64."""
    chosen_T = logs_TV.gather(1, targets_T.to(logs_TV.device)[:, None])[:, 0]
    return -chosen_T.double().cpu().numpy()
