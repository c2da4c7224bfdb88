"""What a run achieved: scores of the artifact as loaded from its file, beside classic compressors."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bytegolf.artifact.loading import load
from bytegolf.artifact.source import source_bytes
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.bits import Score, score, token_stream
from bytegolf.evaluation.compressors import baselines
from bytegolf.evaluation.windows import WindowPlan
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.running.environment import describe_environment
from bytegolf.running.export import Exported
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import open_artifact
from bytegolf.serving.generate import text as generate_text
from bytegolf.text.documents import Document, text_digest
from bytegolf.text.readers import read_documents
from bytegolf.tokens.shards import Prepared
from bytegolf.tokens.tokenizer import Tokenizer

#: Held-out text beyond this is not given to the classic compressors: brotli needs a second for each 600 kB.
_COMPRESSED_BYTES = 8_000_000
_LN2 = float(np.log(2.0))


@dataclass(frozen=True)
class Outcome:
    """summary: what result.json holds. coloured: documents as lists of [hex bytes, bits]."""

    summary: dict[str, Any]
    coloured: list[dict[str, Any]]


def evaluate_run(
    model: LanguageModel,
    recipe: Recipe,
    prepared: Prepared,
    training: dict[str, Any],
    exported: Exported,
    device: torch.device,
    display: Display,
) -> Outcome:
    """Scores the float model under the headline plan, the artifact under every plan, and writes samples.

    Where the recipe lets the model learn from the text, the artifact is scored so too, by the headline plan.
    """
    loaded = load(exported.path, device=device)
    documents = prepared.validation_documents()
    texts = [document.text for document in documents]
    ids, starts = token_stream(prepared.tokenizer, texts)
    scores = []
    coloured: list[dict[str, Any]] = []
    model.compute_dtype = loaded.model.compute_dtype
    for name, scored_model, plan, adaptation in _passes(recipe, model, loaded.model):
        watch = display.counting(f"scoring the {name}, {plan.name} …")
        result = score(scored_model, loaded.tokenizer, ids, starts, plan, adaptation=adaptation, watch=watch)
        scores.append(_row(name, result))
        display.say(f"scored   {result.bits_per_byte:.4f} bits/byte  {name}, {result.plan}")
        if name == "artifact" and not coloured:
            coloured = _coloured(
                documents, prepared.tokenizer, ids, starts, result, recipe.evaluation.coloured_bytes
            )
    samples = _samples(loaded.model, recipe, prepared, display)
    display.update("classic compressors …")
    held_out = "".join(texts).encode()
    summary = {
        "recipe": recipe.name,
        "seed": recipe.training.seed,
        "machine": describe_environment(),
        "artifact": _artifact(exported, recipe),
        "training": training,
        "data": _data(prepared, documents),
        "scores": scores,
        "baselines": [
            asdict(row)
            for row in baselines(
                held_out[:_COMPRESSED_BYTES],
                prepared.training_bytes(2 * exported.account.total_bytes),
                exported.account.total_bytes,
            )
        ],
        "plan": exported.plan_rows,
        "compression": {"seconds": exported.seconds},
        "samples": samples,
    }
    summary["date"] = summary["machine"]["date"]
    return Outcome(summary, coloured)


def evaluate_artifact(
    path: Path,
    sources: tuple[str, ...],
    plans: tuple[WindowPlan, ...],
    *,
    field: str = "text",
    cut_bytes: int = 0,
    adapt: bool = False,
    device: str = "auto",
    display: Display,
) -> list[dict[str, Any]]:
    """Scores an artifact on any text; rows as in result.json's scores.

    With `adapt` the model learns from what is scored, as its recipe says; an adaptation may have windows of
    its own, and then there is one row for all plans.
    """
    artifact = open_artifact(path, device=device)
    adaptation = artifact.required_adaptation() if adapt else None
    documents = list(read_documents(sources, field=field, cut_bytes=cut_bytes))
    ids, starts = token_stream(artifact.tokenizer, [document.text for document in documents])
    rows = []
    used = plans if adaptation is None else dict.fromkeys(map(adaptation.plan, plans))
    for plan in used:
        watch = display.counting(f"scoring, {plan.name} …")
        result = score(
            artifact.model, artifact.tokenizer, ids, starts, plan, adaptation=adaptation, watch=watch
        )
        rows.append(_row("artifact", result))
    return rows


def _passes(
    recipe: Recipe, trained: LanguageModel, loaded: LanguageModel
) -> Iterator[tuple[str, LanguageModel, WindowPlan, Adaptation | None]]:
    """Every scoring of a run: whose, with what, through which windows, learning or not."""
    spec = recipe.evaluation
    yield "float", trained, spec.plans[0], None
    for plan in spec.plans:
        yield "artifact", loaded, plan, None
    if spec.adaptation is not None:
        yield "artifact", loaded, spec.plans[0], spec.adaptation


def _row(model: str, result: Score) -> dict[str, Any]:
    return {
        "model": model,
        "plan": result.plan,
        "bits_per_byte": result.bits_per_byte,
        "nats_per_token": result.nats_per_token,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "seconds": result.seconds,
    }


def _artifact(exported: Exported, recipe: Recipe) -> dict[str, Any]:
    """The file in both sizes, and what its bytes are."""
    source = source_bytes()
    return {
        "path": str(exported.path),
        "bytes": exported.account.total_bytes,
        "sha256": exported.sha256,
        "challenge_bytes": exported.account.challenge_bytes(source),
        "source_bytes": source,
        "budget_bytes": recipe.compression.budget_bytes,
        "account": [{"part": part, "bytes": size} for part, size in exported.account.parts],
    }


def _data(prepared: Prepared, documents: Sequence[Document]) -> dict[str, Any]:
    splits = {"training": prepared.training, "validation": prepared.validation}
    counts = {
        f"{name}_{what}": getattr(store, what)
        for name, store in splits.items()
        for what in ("bytes", "documents", "tokens")
    }
    tokenizer = prepared.tokenizer
    return counts | {
        "tokenizer": tokenizer.kind,
        "vocabulary": tokenizer.vocabulary,
        "lossless": tokenizer.lossless,
        "tokenizer_sha256": tokenizer.digest,
        "validation_sha256": text_digest(documents),
    }


def _coloured(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    ids: np.ndarray,
    starts: np.ndarray,
    result: Score,
    limit: int,
) -> list[dict[str, Any]]:
    """Whole held-out documents from the first on, until `limit` bytes; at least one."""
    shown, used = [], 0
    borders = [*starts.tolist(), len(ids) - 1]
    for number, (first, last) in enumerate(itertools.pairwise(borders)):
        if shown and used >= limit:
            break
        decode = tokenizer.decoder()
        # Target i is token i + 1; the document's last target is its end, which shows nothing.
        shown_stop = min(last - 1, first + max(200, limit))
        tokens = [
            [decode(int(ids[i + 1])).hex(), float(result.nats_N[i]) / _LN2] for i in range(first, shown_stop)
        ]
        shown.append({"id": documents[number].id, "tokens": tokens})
        used += int(result.bytes_N[first:last].sum())
    return shown


def _samples(
    model: LanguageModel, recipe: Recipe, prepared: Prepared, display: Display
) -> list[dict[str, str]]:
    samples = []
    for number, prompt in enumerate(recipe.evaluation.prompts):
        display.update("writing samples …")
        if recipe.evaluation.sample_tokens:
            continuation = generate_text(
                model,
                prepared.tokenizer,
                prompt,
                tokens=recipe.evaluation.sample_tokens,
                seed=number,
                context=recipe.training.context,
            )
            samples.append({"prompt": prompt, "text": continuation})
    return samples
