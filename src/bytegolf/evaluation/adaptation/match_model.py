"""What followed the longest repeat in a document becomes likelier, or less likely, than the model finds it.

Shapes: M targets, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation.lora import DocumentLora
from bytegolf.evaluation.adaptation.matches import Matcher, Matches, matches_of
from bytegolf.evaluation.adaptation.sgd import ScoreFirstSgd
from bytegolf.evaluation.legality import Session
from bytegolf.evaluation.passes import Tilt, Watch, on_device, score_windows
from bytegolf.evaluation.windows import Plan, Window
from bytegolf.model.spec import LanguageModel

#: w₀ to w₁₁, fitted to 30 documents of training text behind adapters (benchmarks/match_model.py).
WEIGHTS = (-0.718, 0.125, -0.024, 0.373, 0.189, 0.052, -0.027, 0.024, -0.054, -0.121, -0.029, 0.028)
#: Log-probabilities that are in memory at a time.
_SLAB_ENTRIES = 1 << 27
_MOST_ODDS, _MOST_SHIFT, _LEAST = 13.0, 12.0, 1e-37


@dataclass(frozen=True)
class MatchModel:
    """A match model (Mahoney 2005, PAQ) beside the network, mixed by a log-linear tilt.

    Where the latest tokens of a document stood there before, m is the token that followed them last, and with
    p the network's distribution

        p′(t) = p(t) · exp(s · [t = m]) / (1 + p(m) · (exp(s) − 1)),

    which sums to one for any s. With x = ln(p(m) / (1 − p(m))), L the length of the longest context that
    matches, n how often it stood in the document, c how often m followed it, d how many tokens ago it was
    latest, and H the entropy of p in nats,

        s = w₀ + w₁ ln c + w₂ ln(n − c + 1) + w₃ [n = c] + w₄ ln² L + w₅ ln d + w₆ H x + w₇ x²
            + x · (w₈ + w₉ ln L + w₁₀ ln c + w₁₁ ln(n − c + 1)),

    x within ±13 and s within ±12. Everything in it comes from the document's earlier tokens, so no document
    knows of another. The form of the tilt is that of the golf challenge's n-gram tilt (#1514), whose s is
    constant; that caches of a text's own words help is Kuhn and De Mori's (1990).

    weights: w₀ to w₁₁. learner: what else learns from the text; the tilt acts on its distributions, and it
    learns from them as they are without the tilt.
    """

    learner: ScoreFirstSgd | DocumentLora | None = None
    weights: tuple[float, ...] = WEIGHTS

    def __post_init__(self) -> None:
        if len(self.weights) != len(WEIGHTS):
            raise RecipeError(f"weights has {len(self.weights)} numbers; give {len(WEIGHTS)}")

    def plan(self, headline: Plan) -> Plan:
        """The learner's windows."""
        return headline if self.learner is None else self.learner.plan(headline)

    @property
    def chunk(self) -> int:
        """Tokens after which the learner learns, 0 without one."""
        return 0 if self.learner is None else self.learner.chunk

    @property
    def separate_documents(self) -> int:
        """The learner's."""
        return 0 if self.learner is None else self.learner.separate_documents

    def score(
        self,
        model: LanguageModel,
        session: Session,
        windows: Iterator[Window],
        tokens_per_pass: int | None,
        watch: Watch,
    ) -> None:
        """Scores these windows into the session, tilted."""
        tilt = self.tilt(session)
        if self.learner is None:
            score_windows(model, session, windows, tokens_per_pass, watch, tilt)
        else:
            self.learner.score(model, session, windows, tokens_per_pass, watch, tilt)

    def tilt(self, session: Session) -> Tilt:
        """The tilt of every target of a session that knows its tokens."""
        ids, _ = session.inputs(np.arange(session.targets + 1))
        return MatchTilt(self, matches_of(ids, session.starts))

    def tilted(self, logs_MV: Tensor, matches: Matches) -> Tensor:
        """The tilted log-probabilities (M, V) of M places, float32 at least."""
        hint = Hint.of(logs_MV, matches)
        shift_M, normalizer_M = (part_M.to(logs_MV.dtype) for part_M in self._shift(hint, matches))
        return (logs_MV - normalizer_M[:, None]).scatter_add(1, hint.ids_M[:, None], shift_M[:, None])

    def tilted_nats(self, logs_MV: Tensor, targets_M: Tensor, matches: Matches) -> Tensor:
        """−ln p′ of the targets, (M,) float64; as `tilted`, without the alphabet."""
        hint = Hint.of(logs_MV, matches)
        shift_M, normalizer_M = self._shift(hint, matches)
        own_M = logs_MV.gather(1, targets_M[:, None])[:, 0].double()
        return normalizer_M - own_M - shift_M * (targets_M == hint.ids_M)

    def _shift(self, hint: "Hint", matches: Matches) -> tuple[Tensor, Tensor]:
        """s and ln(1 + p(m) · (exp(s) − 1)), (M,) float64 each; 0 where nothing matches."""
        weights_F = torch.tensor(self.weights, dtype=torch.float64, device=hint.log_M.device)
        shift_M, normalizer_M = shifted(hint.features(matches), weights_F, hint.log_M, hint.rest_M)
        return shift_M * hint.there_M, normalizer_M * hint.there_M


def shifted(features_MF: Tensor, weights_F: Tensor, log_M: Tensor, rest_M: Tensor) -> tuple[Tensor, Tensor]:
    """s and the logarithm of what p′ is divided by, (M,) each, from what a `Hint` says."""
    shift_M = (features_MF @ weights_F).clamp(-_MOST_SHIFT, _MOST_SHIFT)
    return shift_M, torch.logaddexp(rest_M, log_M + shift_M)


@dataclass(frozen=True, eq=False)
class Hint:
    """What the model thinks of m; (M,) each, float64 but for the first two.

    there_M: where there is one. ids_M: 0 elsewhere. log_M: ln p(m). rest_M: ln Σ p(t) over all t but m, which
    is not ln(1 − p(m)) if p(m) is nearly 1 and rounded. entropy_M: of p, in nats.
    """

    there_M: Tensor
    ids_M: Tensor
    log_M: Tensor
    rest_M: Tensor
    entropy_M: Tensor

    @staticmethod
    def of(logs_MV: Tensor, matches: Matches) -> "Hint":
        ids_M = on_device(matches.ids, logs_MV.device)
        there_M, ids_M = ids_M >= 0, ids_M.clamp(min=0)
        log_M = logs_MV.gather(1, ids_M[:, None])[:, 0].double()
        probabilities_MV = logs_MV.exp()
        entropy_M = -(probabilities_MV * logs_MV).sum(dim=1).double()
        rest_M = probabilities_MV.scatter_(1, ids_M[:, None], 0.0).sum(dim=1, dtype=torch.float64)
        return Hint(there_M, ids_M, log_M, rest_M.clamp(min=_LEAST).log(), entropy_M)

    def features(self, matches: Matches) -> Tensor:
        """What w₀ to w₁₁ weigh, (M, 12) float64; arbitrary where nothing matches."""
        misses = matches.occurrences - matches.followed
        numbers = [np.maximum(matches.followed, 1), misses + 1, np.maximum(matches.distances, 1)]
        often, seldom, distance = map(np.log, numbers)
        length = np.log(np.maximum(matches.lengths, 1))
        constants = [np.ones_like(length), often, seldom, misses == 0, length**2, distance]
        slopes = [np.ones_like(length), length, often, seldom]
        constants_M6, slopes_M4 = (
            on_device(np.stack(part, axis=1).astype(np.float64), self.log_M.device)
            for part in (constants, slopes)
        )
        odds_M = (self.log_M - self.rest_M).clamp(-_MOST_ODDS, _MOST_ODDS)
        curves_M2 = torch.stack([self.entropy_M * odds_M, odds_M**2], dim=1)
        return torch.cat([constants_M6, curves_M2, odds_M[:, None] * slopes_M4], dim=1)


class MatchTilt:
    """A `MatchModel` on one text, whose matches are known."""

    def __init__(self, spec: MatchModel, matches: Matches) -> None:
        self._spec, self._matches = spec, matches

    @torch.no_grad()
    def nats(self, model: LanguageModel, h_MD: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        """−ln p′ (M,), float64, of the targets `index_M`, from the model's hidden states before them."""
        # It has factors for each document; who uses one has all log-probabilities at hand.
        assert model.head_adapter is None, "an adapter of the output cannot act on a slab"
        rows = max(1, _SLAB_ENTRIES // model.spec.vocabulary)
        parts = [
            self.tilted_nats(
                model.distribution(h_MD[first : first + rows]),
                index_M[first : first + rows],
                targets_M[first : first + rows],
            )
            for first in range(0, len(index_M), rows)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def tilted_nats(self, logs_MV: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        """−ln p′ (M,), float64, of the targets `index_M`, from the model's log-probabilities."""
        return self._spec.tilted_nats(logs_MV, targets_M, self._matches.at(index_M))


class StreamsTilt:
    """A `MatchModel` on streams that are read a token at a time."""

    def __init__(self, spec: MatchModel, streams: int) -> None:
        self._spec, self._matcher = spec, Matcher(streams)

    def tilted(self, logs_BV: Tensor, ids_B: np.ndarray, starts_B: np.ndarray) -> Tensor:
        """The tilted log-probabilities (B, V) behind one more token of each of the first B streams.

        starts_B: bool, whether the token begins a document.
        """
        return self._spec.tilted(logs_BV, self._matcher.read(ids_B, starts_B))
