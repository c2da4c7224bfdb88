"""Many runs from one command: every group of settings with every seed, a run folder each.

FOLDER/sweep.json            what the sweep is made of
FOLDER/GROUP/recipe.json     the settings of a group
FOLDER/GROUP/seed-N/         a run
FOLDER/data/                 tokens, for all groups whose text and tokenizer are the same
"""

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bytegolf.errors import BytegolfError
from bytegolf.files import write_json
from bytegolf.recipe import Recipe
from bytegolf.report.differences import differences
from bytegolf.training.signals import Interrupted, StopSignals
from bytegolf.tree import to_json

_DESCRIPTION = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What a sweep is made of. groups: the recipe of each by its name, which is also its folder's.

    description: plain data that says where the groups come from. A folder is gone on with only if its own
    is equal.
    """

    folder: Path
    groups: Mapping[str, Recipe]
    seeds: tuple[int, ...]
    description: Mapping[str, Any]

    def runs(self) -> list["PlannedRun"]:
        """Every group with the first seed, then with the second and so on.

        In this order a sweep that is looked at early has something of every group, and a machine that
        grows slower over the hours does so for all of them.
        """
        return [PlannedRun(self.folder, group, seed) for seed in self.seeds for group in self.groups]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    sweep: Path
    group: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.sweep / self.group / f"seed-{self.seed}"

    @property
    def recipe(self) -> Path:
        return self.sweep / self.group / "recipe.json"

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    @property
    def started(self) -> bool:
        """Whether there is something to go on from."""
        return any((self.folder / "checkpoint").glob("step-*.pt"))

    def words(self, device: str) -> list[str]:
        """The command line, without the program, that begins or continues this run."""
        if self.started:
            return ["train", "--resume", str(self.folder), "--device", device]
        settings = [f"--training.seed={self.seed}", "--folder", str(self.folder), "--device", device]
        return ["train", str(self.recipe), *settings]


def carry_out(sweep: Sweep, *, device: str, say: Callable[[str], None]) -> list[PlannedRun]:
    """Trains what is not finished yet, one run after another, and returns the runs that failed.

    Each is a process of its own, `python -m bytegolf train …`, which speaks to the terminal itself. Raises
    `BytegolfError` if the folder holds another sweep or is at work already, and `Interrupted` if it was
    asked to stop (Ctrl-C or SIGTERM), after the run at work has saved its state.
    """
    _refuse_other(sweep)
    failed = []
    with _locked(sweep.folder) as lock, StopSignals() as signals:
        write_plan(sweep)
        runs = sweep.runs()
        for number, run in enumerate(runs, 1):
            title = f"run {number} of {len(runs)}: {run.folder}"
            if run.finished:
                say(f"{title} is finished")
                continue
            say(title)
            if run.folder.exists() and not run.started:
                # It was stopped before its first checkpoint, and `train` would refuse what is left of it.
                shutil.rmtree(run.folder)
            code = _wait(run.words(device), lock, signals)
            if signals.raised:
                raise Interrupted
            if code != 0:
                failed.append(run)
    return failed


def write_plan(sweep: Sweep) -> None:
    """Writes sweep.json and the recipe of every group."""
    write_json(sweep.folder / _DESCRIPTION, sweep.description)
    for run in sweep.runs():
        if not run.recipe.exists():
            write_json(run.recipe, to_json(sweep.groups[run.group]))


def with_shared_tokens(folder: Path, groups: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Lets groups of one text and tokenizer share their tokens, if their recipe names no place for them."""
    kinds = list(dict.fromkeys((recipe.text, recipe.tokens) for recipe in groups.values()))
    places = [folder / (f"data-{number}" if number > 1 else "data") for number in range(1, len(kinds) + 1)]
    shared = {}
    for name, recipe in groups.items():
        place = str(places[kinds.index((recipe.text, recipe.tokens))])
        shared[name] = recipe if recipe.prepared else replace(recipe, prepared=place)
    return shared


def _wait(words: Sequence[str], lock: int, signals: StopSignals) -> int:
    """Runs the program in a child process and returns its exit code; hands on a wish to stop."""
    # With the lock in the child's hands too, a run that outlives a killed sweep is not taken for a dead one.
    process = subprocess.Popen([sys.executable, "-m", "bytegolf", *words], pass_fds=(lock,))
    asked = False
    try:
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if signals.raised and not asked:
                    # Ctrl-C in a terminal reaches the child by itself; a second SIGINT would stop it unsaved.
                    process.send_signal(signal.SIGTERM)
                    asked = True
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Holds the folder against a second sweep; yields the descriptor that keeps the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BytegolfError(
                f"a sweep, or a run that it left behind, is at work in {folder}; wait for it or stop it"
            ) from error
        yield file.fileno()


def _refuse_other(sweep: Sweep) -> None:
    path = sweep.folder / _DESCRIPTION
    if not path.exists():
        return
    try:
        there = json.loads(path.read_bytes())
    except ValueError as error:
        raise BytegolfError(f"'{path}' is not JSON ({error}); name another folder with --folder") from error
    here = json.loads(json.dumps(sweep.description))
    found = [
        f"{path} is {_short(old)} there and {_short(new)} here" for path, old, new in differences(there, here)
    ]
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise BytegolfError(
            f"{sweep.folder} holds another sweep: {'; '.join(found[:3])}{more}; "
            "go on with that one's settings, or name another folder with --folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
