"""Fits a match model's weights to a text, and shows what they and the recipe's own give on it and on another.

    python benchmarks/match_model.py ARTIFACT TEXT… [--held-out TEXT…] [--learner LEARNER] [--documents N]
        [--out RECORD.json]

The text is scored as it would be in an evaluation, windows and learner included, and the least sum of scores
over all weights is sought; it is convex in them. Fit to training text: what is scored must not be fitted to.
`--learner`: ScoreFirstSgd, DocumentLora or one as JSON. `--documents`: so many, drawn from each text.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from bytegolf.evaluation.adaptation import DocumentLora, MatchModel, ScoreFirstSgd
from bytegolf.evaluation.adaptation.match_model import WEIGHTS, Hint, shifted
from bytegolf.evaluation.adaptation.matches import Matches, matches_of
from bytegolf.evaluation.bits import score_session, token_stream
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import Tilt, fitted
from bytegolf.evaluation.windows import PerDocument
from bytegolf.model.spec import LanguageModel
from bytegolf.running.environment import describe_environment
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact, open_artifact
from bytegolf.text.readers import read_documents
from bytegolf.tree import from_json, to_json

_SEED = 0


@dataclass(frozen=True)
class Seen:
    """Of every target with a match: features (M, 12), ln p(m), ln of the rest, and whether it was m."""

    features_MF: Tensor
    log_M: Tensor
    rest_M: Tensor
    hit_M: Tensor
    plain_nats: float
    total_bytes: int
    targets: int

    def nats(self, weights_F: Tensor) -> Tensor:
        """What the tilt adds to the sum of all scores."""
        shift_M, normalizer_M = shifted(self.features_MF, weights_F, self.log_M, self.rest_M)
        return (normalizer_M - shift_M * self.hit_M).sum()

    def bits_per_byte(self, weights: Sequence[float] | None) -> float:
        """With these weights, or without a match model."""
        nats = self.plain_nats
        if weights is not None:
            nats += float(self.nats(torch.tensor(weights, dtype=torch.float64)))
        return nats / math.log(2) / self.total_bytes


@dataclass
class Watching:
    """Tilts nothing, and keeps what a tilt would go by."""

    matches: Matches
    parts: list[tuple[Tensor, ...]] = field(default_factory=list)

    @torch.no_grad()
    def nats(self, model: LanguageModel, h_MD: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        return self.tilted_nats(model.distribution(h_MD), index_M, targets_M)

    @torch.no_grad()
    def tilted_nats(self, logs_MV: Tensor, index_M: np.ndarray, targets_M: Tensor) -> Tensor:
        found = self.matches.at(index_M)
        hint = Hint.of(logs_MV, found)
        there = hint.there_M.cpu() & torch.from_numpy(index_M >= 0)
        kept = hint.features(found), hint.log_M, hint.rest_M, (targets_M == hint.ids_M).double()
        self.parts.append(tuple(part.cpu()[there] for part in kept))
        return -logs_MV.gather(1, targets_M[:, None])[:, 0].double()


def see(artifact: Artifact, texts: Sequence[str], spec: MatchModel, display: Display) -> Seen:
    """One session over these documents, without a tilt."""
    ids, starts = token_stream(artifact.tokenizer, texts)
    plan = spec.plan(PerDocument(artifact.context, max(1, artifact.context // 4)))
    session = Session(artifact.tokenizer, ids, starts, Track.adaptive())
    watching = Watching(matches_of(ids, starts))

    class Watched(MatchModel):
        def tilt(self, session: Session) -> Tilt:
            return watching

    with torch.no_grad(), fitted(artifact.model, plan.length):
        score_session(
            artifact.model,
            session,
            plan.windows(starts, session.targets),
            adaptation=Watched(spec.learner, spec.weights),
            watch=display.counting("scoring …"),
        )
    ledger = session.close()
    features, log, rest, hit = (torch.cat(part) for part in zip(*watching.parts, strict=True))
    return Seen(features, log, rest, hit, ledger.total_nats, ledger.total_bytes, session.targets)


def fit(seen: Seen) -> list[float]:
    """The weights of least score, rounded to three places."""
    # Features of one size, so that one step length suits all.
    scale_F = seen.features_MF.square().mean(dim=0).sqrt()
    free_F = torch.zeros(len(WEIGHTS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free_F], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = seen.nats(free_F / scale_F) / len(seen.hit_M)
        loss.backward()
        return loss

    optimizer.step(closure)
    return [round(float(value), 3) for value in free_F.detach() / scale_F]


def learner_of(name: str | None) -> ScoreFirstSgd | DocumentLora | None:
    """A learner by its class's name or as JSON."""
    data = json.loads(name) if name and name.startswith("{") else name and {"type": name}
    return from_json(MatchModel, {"type": "MatchModel", "learner": data}, "--learner").learner


def drawn(sources: Sequence[str], count: int | None) -> list[str]:
    texts = [document.text for document in read_documents(tuple(sources))]
    return texts if count is None else random.Random(_SEED).sample(texts, min(count, len(texts)))


def row(name: str, seen: Seen, fitted_weights: Sequence[float]) -> dict[str, Any]:
    plain = seen.bits_per_byte(None)
    return {
        "text": name,
        "targets": seen.targets,
        "bytes": seen.total_bytes,
        "matched": len(seen.hit_M) / seen.targets,
        "right": float(seen.hit_M.mean()),
        "without": plain,
        "gain_default": plain - seen.bits_per_byte(WEIGHTS),
        "gain_fitted": plain - seen.bits_per_byte(fitted_weights),
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", nargs="+")
    parser.add_argument("--held-out", nargs="+", default=[])
    parser.add_argument("--learner")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    console = Console()
    display, artifact = Display(console), open_artifact(options.artifact, device=options.device)
    spec = MatchModel(learner_of(options.learner))
    seen = see(artifact, drawn(options.text, options.documents), spec, display)
    weights = fit(seen)
    rows = [row("fitted to", seen, weights)]
    if options.held_out:
        rows.append(
            row("held out", see(artifact, drawn(options.held_out, options.documents), spec, display), weights)
        )
    console.print(f"weights {weights}")
    for found in rows:
        console.print(
            f"{found['text']}: {found['without']:.4f} bits/byte, gain {found['gain_default']:.4f} with the "
            f"weights of MatchModel, {found['gain_fitted']:.4f} with these"
        )
    if options.out is not None:
        record = {
            "artifact": {"name": artifact.recipe["name"], "sha256": artifact.digest.hex()},
            "spec": to_json(spec),
            "weights": weights,
            "documents": options.documents,
            "seed": _SEED,
            "rows": rows,
            "machine": describe_environment(),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
