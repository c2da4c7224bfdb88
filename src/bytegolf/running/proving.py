"""From an artifact and a text to the verdict on every condition."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bytegolf.artifact.container import Contents, read_artifact
from bytegolf.artifact.source import source_bytes
from bytegolf.errors import RecipeError
from bytegolf.evaluation.passes import fitted
from bytegolf.evaluation.proof.conditions import conditions
from bytegolf.evaluation.proof.records import budget, reproducibility, size, split
from bytegolf.evaluation.proof.subject import Passage, Subject, Taking, take
from bytegolf.evaluation.proof.verdict import REPRODUCIBILITY, Verdict, not_checked
from bytegolf.evaluation.windows import WindowPlan
from bytegolf.report.run_folder import find, number, read_run, rows
from bytegolf.running.certificate import bindings, compose
from bytegolf.running.progress import Display
from bytegolf.running.round_trip import round_trip
from bytegolf.serving.artifact import Artifact, artifact_of
from bytegolf.text.documents import Document
from bytegolf.text.readers import read_documents
from bytegolf.tokens.cleanliness import check_split
from bytegolf.tokens.ledger import bits_per_byte
from bytegolf.tokens.shards import open_prepared
from bytegolf.training.budget import Budget
from bytegolf.tree import from_json, to_json


@dataclass(frozen=True)
class Question:
    """What is asked of an artifact; the fields are the options of `bytegolf prove`.

    data: the prepared folder, "" for the one beside the artifact or the recipe's. claim: bits per byte, None
    for those of result.json. limit: bytes, None for the recipe's.
    """

    artifact: Path
    plan: WindowPlan
    text: tuple[str, ...] = ()
    field: str = "text"
    cut_bytes: int = 0
    adapt: bool = False
    data: str = ""
    claim: float | None = None
    limit: int | None = None
    positions: int = 64
    seed: int = 0
    round_trip: bool = False
    device: str = "auto"


def prove(question: Question, display: Display) -> tuple[list[Verdict], dict[str, Any]]:
    """The verdicts, and the certificate that holds them.

    Raises `BytegolfError` if the artifact or the text cannot be read, or there is no text.
    """
    contents = read_artifact(question.artifact)
    data = question.artifact.read_bytes()
    artifact = artifact_of(contents, question.artifact, device=question.device)
    folder = _data_folder(question, contents)
    documents = _documents(question, folder)
    subject = _subject(question, artifact)
    texts = [document.text.encode() for document in documents]
    passage = Passage.of(subject.tokenizer, texts)
    bound = bindings(data, contents.recipe, documents)
    with fitted(subject.model, subject.plan.length):
        taking = take(subject, passage, watch=display.counting(f"scoring, {subject.plan_name} …"))
        verdicts = list(
            conditions(
                subject,
                texts,
                passage,
                taking,
                positions=question.positions,
                seed=question.seed,
                watching=display.counting,
            )
        )
    display.update("looking for the text in training …")
    verdicts.append(_split(folder, documents))
    records = _Records.beside(question.artifact, bound["artifact_sha256"])
    verdicts += _recorded(question, contents, len(data), records)
    score = _score(subject, passage, taking)
    verdicts.append(_reproducibility(question, score, records, bound["text_sha256"], artifact))
    if question.round_trip:
        verdicts.append(
            round_trip(
                artifact,
                question.artifact,
                b"".join(texts),
                question.plan,
                adapt=question.adapt,
                device=question.device,
                display=display,
            )
        )
    return verdicts, compose(verdicts, bound, score, _asked(question, len(documents)))


def _subject(question: Question, artifact: Artifact) -> Subject:
    if not question.adapt:
        return Subject(artifact.model, artifact.tokenizer, question.plan)
    adaptation = artifact.required_adaptation()
    return Subject.adaptive(artifact.model, artifact.tokenizer, question.plan, adaptation)


def _data_folder(question: Question, contents: Contents) -> Path | None:
    """The prepared folder of the artifact's training text, if it is to be found."""
    if question.data:
        if not Path(question.data).is_dir():
            raise RecipeError(f"--data {question.data} is no folder; name one with a manifest.json")
        return Path(question.data)
    prepared = contents.recipe.get("prepared")
    candidates = [question.artifact.parent / "data"]
    candidates += [Path(prepared)] if isinstance(prepared, str) and prepared else []
    return next((folder for folder in candidates if (folder / "manifest.json").is_file()), None)


def _documents(question: Question, folder: Path | None) -> list[Document]:
    if question.text:
        return list(read_documents(question.text, field=question.field, cut_bytes=question.cut_bytes))
    if folder is None:
        raise RecipeError(
            "prove needs a text to score: no held-out documents lie beside the artifact; add --text FILES"
        )
    return open_prepared(folder).validation_documents()


def _split(folder: Path | None, documents: Sequence[Document]) -> Verdict:
    if folder is None:
        return split(None, "The training text's manifest is not here; name its folder with --data.")
    absent = f"{folder} keeps no hashes and sketch of its training text; prepare it again."
    return split(check_split(folder, documents), absent)


@dataclass(frozen=True)
class _Records:
    """result.json and metrics.jsonl beside an artifact, if they are about it."""

    result: Any = None
    steps: Any = None

    @staticmethod
    def beside(artifact: Path, digest: str) -> "_Records":
        if not (artifact.parent / "result.json").is_file():
            return _Records()
        run = read_run(artifact.parent)
        if find(run.result, "artifact", "sha256") != digest:
            return _Records()
        last = run.events("train")[-1:]
        return _Records(run.result, last[0] if last else None)


def _recorded(
    question: Question, contents: Contents, artifact_bytes: int, records: _Records
) -> list[Verdict]:
    limit = question.limit
    if limit is None:
        recipe_limit = number(contents.recipe, "compression", "budget_bytes")
        limit = None if recipe_limit is None else int(recipe_limit)
    plain = find(contents.recipe, "training", "budget")
    allowed = from_json(Budget, plain, "training.budget") if isinstance(plain, dict) else None
    metrics = {
        "seconds": find(records.steps, "seconds"),
        "tokens": find(records.steps, "tokens"),
        "steps": find(records.steps, "step"),
    }
    used = {
        "the artifact's record": contents.training,
        "result.json": find(records.result, "training") or {},
        "metrics.jsonl": metrics if records.steps else {},
    }
    sizes = size(artifact_bytes, len(contents.tokenizer), source_bytes(), limit)
    return [sizes, budget(allowed, used)]


def _score(subject: Subject, passage: Passage, taking: Taking) -> dict[str, Any] | None:
    if not taking.complete:
        return None
    nats = taking.witness.nats
    total = int(subject.counts(subject.tokenizer, passage.ids[1:], int(passage.ids[0])).sum())
    return {
        "plan": subject.plan_name,
        "bits_per_byte": bits_per_byte(float(nats.sum()), total),
        "nats_per_token": float(nats.mean()),
        "tokens": len(nats),
        "bytes": total,
        "precision": str(subject.model.compute_dtype).removeprefix("torch."),
        "device": subject.model.device.type,
    }


def _reproducibility(
    question: Question, score: dict[str, Any] | None, records: _Records, text_sha256: str, artifact: Artifact
) -> Verdict:
    if score is None:
        return not_checked(REPRODUCIBILITY, "The text has no complete score.")
    scored = score["bits_per_byte"]
    if question.claim is not None:
        return reproducibility(scored, question.claim, "")
    if records.result is None:
        return reproducibility(scored, None, "no result.json of this artifact lies beside it; give --claim.")
    claimed_text = find(records.result, "data", "validation_sha256")
    if claimed_text is None:
        return reproducibility(scored, None, "result.json does not say which text it scored; give --claim.")
    if claimed_text != text_sha256:
        return reproducibility(scored, None, "result.json is about another text; give --claim.")
    claims = [
        number(row, "bits_per_byte")
        for row in rows(records.result, "scores")
        if row.get("model") == "artifact" and row.get("plan") == score["plan"]
    ]
    if not claims or claims[0] is None:
        return reproducibility(scored, None, f"result.json has no score under {score['plan']}.")
    claimed_on = "cuda" if find(records.result, "machine", "gpu") else "cpu"
    same = claimed_on == artifact.model.device.type
    return reproducibility(scored, claims[0], "", same_device=same)


def _asked(question: Question, documents: int) -> dict[str, Any]:
    plain = asdict(question) | {"artifact": str(question.artifact), "plan": to_json(question.plan)}
    return json.loads(json.dumps(plain | {"documents": documents}))
