"""Finished runs as seeds of an experiment, and the refusal of those that cannot be compared."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.errors import BytegolfError
from bytegolf.report.differences import differences
from bytegolf.report.run_folder import find, number, read_run, rows

#: Settings, the seed among them, that make no other recipe: what is trained and how a plan scores it stays.
_WITHOUT_EFFECT = (
    "name",
    "prepared",
    "training.seed",
    "training.validate_at",
    "training.checkpoint_seconds",
    "evaluation.plans",
    "evaluation.prompts",
    "evaluation.sample_tokens",
    "evaluation.coloured_bytes",
)
_DIGESTS = {"validation_sha256": "validation bytes", "tokenizer_sha256": "tokenizer"}


@dataclass(frozen=True)
class Seed:
    """One finished run. scores: bits per byte and nats per token of its artifact, by the name of the plan."""

    folder: Path
    recipe: str
    settings: Any
    seed: int
    artifact_bytes: int
    digests: dict[str, str]
    scores: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Side:
    """The runs that are averaged, and what the reader must know about them."""

    seeds: tuple[Seed, ...]
    notes: tuple[str, ...]

    def bits_per_byte(self, plan: str) -> list[float]:
        return [seed.scores[plan][0] for seed in self.seeds]

    def nats_per_token(self, plan: str) -> list[float]:
        return [seed.scores[plan][1] for seed in self.seeds]


def read_side(names: Sequence[str]) -> Side:
    """The runs that `names` stand for: run folders, or folders with runs below them, such as a sweep's group.

    Raises `BytegolfError` where there is no finished run, or where a seed of a recipe would count twice.
    """
    seeds: list[Seed] = []
    notes: list[str] = []
    for name in names:
        finished, unfinished = _runs_of(Path(name))
        seeds += sorted((read_seed(folder) for folder in finished), key=lambda seed: seed.seed)
        notes += [f"{folder} is unfinished and left out" for folder in unfinished]
    _refuse_repeated(seeds)
    varied = sorted({path for seed in seeds[1:] for path in _varied(seeds[0], seed)})
    if varied:
        some = ", ".join(varied[:3]) + (f" and {len(varied) - 3} more" if len(varied) > 3 else "")
        notes.append(f"these runs differ in {some}, so that their scatter is not that of seeds alone")
    return Side(tuple(seeds), tuple(notes))


def read_seed(folder: Path) -> Seed:
    """A finished run. Raises `BytegolfError` if it is unfinished, damaged, or of a version that left out what
    comparing needs.
    """
    run = read_run(folder)
    if run.result is None:
        raise BytegolfError(f"'{folder}' is unfinished: go on with `bytegolf train --resume {folder}`")
    digests = {}
    for key in _DIGESTS:
        digest = find(run.result, "data", key)
        if not isinstance(digest, str):
            raise BytegolfError(
                f"'{folder}' was written before result.json held data.{key}; `bytegolf compress {folder}` "
                "writes it again, with grids chosen anew"
            )
        digests[key] = digest
    scores = {}
    for row in rows(run.result, "scores"):
        bits, nats = number(row, "bits_per_byte"), number(row, "nats_per_token")
        if row.get("model") == "artifact" and bits is not None and nats is not None:
            scores[str(row.get("plan"))] = (bits, nats)
    seed, size = find(run.result, "seed"), find(run.result, "artifact", "bytes")
    if not scores or not isinstance(seed, int) or not isinstance(size, int):
        raise BytegolfError(
            f"'{folder}/result.json' lacks the seed, the artifact's bytes or its scores; "
            f"`bytegolf compress {folder}` writes it again, with grids chosen anew"
        )
    return Seed(folder, str(find(run.result, "recipe")), run.recipe, seed, size, digests, scores)


def refuse_incomparable(sides: Sequence[Side]) -> None:
    """Raises `BytegolfError` unless all runs scored the same bytes with the same tokenizer, on one side."""
    seeds = [seed for side in sides for seed in side.seeds]
    first = seeds[0]
    for other in seeds[1:]:
        for key, what in _DIGESTS.items():
            if other.digests[key] != first.digests[key]:
                raise BytegolfError(
                    f"'{first.folder}' and '{other.folder}' cannot be compared: their {what} differ "
                    f"({key} {first.digests[key][:12]} and {other.digests[key][:12]}); "
                    "train both on the same text with the same tokenizer"
                )
    for one, two in itertools.combinations(sides, 2):
        theirs = {seed.folder.resolve() for seed in two.seeds}
        for seed in one.seeds:
            if seed.folder.resolve() in theirs:
                raise BytegolfError(f"'{seed.folder}' is on both sides; leave it out on one of them")


def shared_plan(sides: Sequence[Side], asked: str = "") -> str:
    """The scoring plan to compare under: `asked`, or the first of the first run that all runs have.

    Raises `BytegolfError` with those that all share if there is no such plan.
    """
    seeds = [seed for side in sides for seed in side.seeds]
    shared = [plan for plan in seeds[0].scores if all(plan in seed.scores for seed in seeds)]
    if asked in shared:
        return asked
    have = f"they share {', '.join(map(repr, shared))}"
    if asked:
        raise BytegolfError(
            f"plan {asked!r} does not score all of these runs; {have if shared else 'they share none'}"
        )
    if not shared:
        raise BytegolfError(
            "these runs share no scoring plan; give their recipes a common one in evaluation.plans"
        )
    return shared[0]


def _runs_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """The finished and the unfinished runs that a name stands for."""
    if (folder / "result.json").is_file() or (folder / "environment.json").is_file():
        return [folder], []
    if not folder.is_dir():
        raise BytegolfError(f"run '{folder}' does not exist; name a folder that a run or a sweep wrote")
    finished = sorted(path.parent for path in folder.rglob("result.json"))
    if not finished:
        raise BytegolfError(f"'{folder}' holds no finished run; name a folder that a run or a sweep wrote")
    groups = sorted({str(run.parent) for run in finished})
    if (folder / "sweep.json").is_file() and len(groups) > 1:
        raise BytegolfError(f"'{folder}' holds {len(groups)} groups of runs; name one: {', '.join(groups)}")
    started = sorted(path.parent for path in folder.rglob("environment.json"))
    return finished, [run for run in started if run not in finished]


def _refuse_repeated(seeds: Sequence[Seed]) -> None:
    for index, one in enumerate(seeds):
        for two in seeds[:index]:
            if one.seed != two.seed:
                continue
            if one.folder.resolve() == two.folder.resolve():
                raise BytegolfError(f"'{one.folder}' is named twice on one side; name each run once")
            if one.recipe == two.recipe and not list(_varied(one, two)):
                raise BytegolfError(
                    f"'{two.folder}' and '{one.folder}' are the same recipe with the same seed {one.seed}, "
                    "which is no second seed; leave out one of them"
                )


def _varied(one: Seed, two: Seed) -> Iterator[str]:
    """Paths of the settings, other than the seed, that tell two runs apart."""
    for path, _, _ in differences(one.settings, two.settings):
        if not any(f"{path}.".startswith(f"{setting}.") for setting in _WITHOUT_EFFECT):
            yield path or "recipe.json"
