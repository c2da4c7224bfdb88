"""A run folder's files as the folder that a submission to the 16 MB challenge consists of."""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.artifact.container import read_artifact
from bytegolf.artifact.source import EVALUATION, script, source_bytes
from bytegolf.errors import ArtifactError, BytegolfError, RecipeError
from bytegolf.files import atomic_write, write_json
from bytegolf.recipe import Recipe
from bytegolf.report.run_folder import Run, find, read_run, rows
from bytegolf.report.seeds import read_side, refuse_incomparable
from bytegolf.runner import saved_recipe
from bytegolf.running.environment import source_hash
from bytegolf.submission.evaluation import submitted_passes
from bytegolf.submission.log import training_log
from bytegolf.submission.readme import Page, readme

#: What the challenge allows, in decimal bytes: code and weights.
LIMIT_BYTES = 16_000_000


@dataclass(frozen=True)
class Labels:
    """What submission.json says that no run knows. Empty hardware: what the run found."""

    author: str = ""
    github_id: str = ""
    name: str = ""
    blurb: str = ""
    track: str = "non_record_16mb"
    hardware: str = ""


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk. code: train_gpt.py, of which evaluation alone would need `evaluation`; artifact: the
    model's file, in which `tokenizer` is the tokenizer, which the challenge does not count.
    """

    code: int
    evaluation: int
    artifact: int
    tokenizer: int

    @property
    def model(self) -> int:
        """The weights and what describes them."""
        return self.artifact - self.tokenizer

    @property
    def total(self) -> int:
        """What the challenge counts."""
        return self.code + self.model

    @property
    def limit(self) -> int:
        """What the challenge allows."""
        return LIMIT_BYTES

    @property
    def over(self) -> int:
        """Bytes above the limit; 0 or less fits."""
        return self.total - self.limit


@dataclass(frozen=True)
class Submission:
    """A finished run that can be written as a submission.

    plan: the windows of the score that is submitted. others: the same recipe with other seeds.
    """

    run: Run
    recipe: Recipe
    artifact: bytes
    sizes: Sizes
    plan: str
    others: tuple[Run, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.run, *self.others)


def open_run(folder: Path, others: Sequence[Path] = ()) -> Submission:
    """Reads a run, and runs of its recipe with other seeds.

    Raises `BytegolfError` for a folder that is no run, an unfinished run, an artifact that is not the one
    that was scored, and for others that were trained otherwise, scored other text, or have the same seed.
    """
    recipe = saved_recipe(folder)
    path = folder / "artifact.bg"
    run = read_run(folder)
    if run.result is None or not path.is_file():
        raise BytegolfError(
            f"{folder} is unfinished: it has no scored artifact; go on with bytegolf train --resume {folder}"
        )
    contents = read_artifact(path)
    artifact = path.read_bytes()
    if hashlib.sha256(artifact).hexdigest() != find(run.result, "artifact", "sha256"):
        raise ArtifactError(
            f"{path} is not the file that result.json scores; score it again with bytegolf compress {folder}"
        )
    plan = _submitted(contents.recipe)
    if others:
        _refuse_other_recipes(folder, others)
    every = (run, *(read_run(other) for other in others))
    for one in every:
        _row(one, plan)
    sizes = Sizes(
        code=source_bytes(),
        evaluation=source_bytes((EVALUATION,)),
        artifact=len(artifact),
        tokenizer=len(contents.tokenizer),
    )
    return Submission(run, recipe, artifact, sizes, plan, every[1:])


def write(submission: Submission, labels: Labels, target: Path) -> None:
    """Writes train_gpt.py, artifact.bg, submission.json, README.md and a log for each run into `target`.

    Raises `RecipeError` if something is there already.
    """
    refuse_existing(target)
    data = describe(submission, labels)
    page = Page(data, submission.recipe, submission.run.result, submission.plan, _certificate(submission))
    atomic_write(target / "train_gpt.py", script())
    atomic_write(target / "artifact.bg", submission.artifact)
    write_json(target / "submission.json", data)
    atomic_write(target / "README.md", readme(page).encode())
    for run, name in zip(submission.runs, log_names(submission), strict=True):
        atomic_write(target / name, training_log(run).encode())


def refuse_existing(target: Path) -> None:
    """Raises `RecipeError` if `target` is a file, or a folder that holds something."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise RecipeError(f"{target} exists; name another folder with --out FOLDER, or delete it first")


def log_names(submission: Submission) -> list[str]:
    """train.log for a single run, train_seed1.log and so on for several."""
    if not submission.others:
        return ["train.log"]
    return [f"train_seed{find(run.result, 'seed')}.log" for run in submission.runs]


def describe(submission: Submission, labels: Labels) -> dict[str, Any]:
    """What submission.json holds: the challenge's names first, then what the script compares with.

    val_bpb and val_loss are the means over all seeds; `scores` are those of the artifact that is shipped.
    """
    result, sizes = submission.run.result, submission.sizes
    scored = {str(find(run.result, "seed")): _seed(run, submission.plan) for run in submission.runs}
    bits = [row["val_bpb"] for row in scored.values()]
    nats = [row["val_loss"] for row in scored.values()]
    machine = result["machine"]
    data = {
        "author": labels.author,
        "github_id": labels.github_id,
        "name": labels.name or result["recipe"],
        "blurb": labels.blurb,
        "date": result["date"],
        "track": labels.track,
        "val_loss": statistics.fmean(nats),
        "val_bpb": statistics.fmean(bits),
        "seeds": [find(run.result, "seed") for run in submission.runs],
        "seed_results": scored,
        "bytes_total": sizes.total,
        "bytes_code": sizes.code,
        "bytes_code_evaluation": sizes.evaluation,
        "bytes_model": sizes.model,
        "bytes_tokenizer": sizes.tokenizer,
        "bytes_artifact": sizes.artifact,
        "bytes_limit": sizes.limit,
        "hardware": labels.hardware or machine["gpu"] or machine["cpu"],
        "python_version": machine["python"],
        "pytorch_version": machine["torch"],
        "bytegolf_version": machine["package_version"],
        "source_sha256": source_hash(),
        "run_source_sha256": machine["source_sha256"],
        "artifact_sha256": result["artifact"]["sha256"],
        "validation_sha256": result["data"]["validation_sha256"],
        "scores": result["scores"],
    }
    if len(bits) > 1:
        data["val_loss_std"], data["val_bpb_std"] = statistics.stdev(nats), statistics.stdev(bits)
    certificate = _certificate(submission)
    if certificate is not None:
        data["compliance"] = {
            str(row.get("condition")): row.get("outcome") for row in rows(certificate, "verdicts")
        }
    return data


def _certificate(submission: Submission) -> Any:
    """The certificate of `bytegolf prove`, if there is one and it is about this artifact."""
    certificate = submission.run.certificate
    bound = find(certificate, "bound_to", "artifact_sha256")
    return certificate if bound == hashlib.sha256(submission.artifact).hexdigest() else None


def _seed(run: Run, plan: str) -> dict[str, Any]:
    row = _row(run, plan)
    training = run.result["training"]
    return {
        "val_loss": row["nats_per_token"],
        "val_bpb": row["bits_per_byte"],
        "artifact_bytes": run.result["artifact"]["bytes"],
        "steps": training["steps"],
        "train_time_s": training["seconds"],
        "eval_time_s": row["seconds"],
    }


def _submitted(recipe: dict[str, Any]) -> str:
    """The name of the windows, as result.json has it, of the score that is submitted."""
    plan, adaptation = next(submitted_passes(recipe))
    return plan.name if adaptation is None else f"{adaptation.plan(plan).name}, adaptive"


def _row(run: Run, plan: str) -> Mapping[str, Any]:
    """The artifact's score by this plan. Raises `BytegolfError` if there is none."""
    for row in rows(run.result, "scores"):
        if row.get("model") == "artifact" and row.get("plan") == plan:
            return row
    raise BytegolfError(
        f"{run.name} has no score of its artifact by {plan!r}; score it again with bytegolf compress"
    )


def _refuse_other_recipes(folder: Path, others: Sequence[Path]) -> None:
    side = read_side([str(folder), *map(str, others)])
    refuse_incomparable([side])
    if side.notes:
        raise BytegolfError(f"{side.notes[0]}; give --also only runs that differ in their seed")
