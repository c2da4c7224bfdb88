"""Which runs a sweep begins, continues, skips and reports. The runs themselves are stood in for."""

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bytegolf.errors import BytegolfError
from bytegolf.recipe import Recipe
from bytegolf.recipes.pocket import RECIPE
from bytegolf.running import sweep as sweeping
from bytegolf.running.sweep import Sweep, carry_out, with_shared_tokens
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.signals import Interrupted, StopSignals
from bytegolf.tree import from_json

WIDE = replace(RECIPE, model=replace(RECIPE.model, width=RECIPE.model.width * 2))


class Runs:
    """Stands in for the child processes: writes what a run would, and ends with the code it is told to."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.codes: dict[str, int] = {}

    def wait(self, words: Sequence[str], lock: int, signals: StopSignals) -> int:
        self.words.append(list(words))
        folder = Path(words[words.index("--resume" if "--resume" in words else "--folder") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        code = self.codes.get(str(folder.relative_to(folder.parents[1])), 0)
        if code == 0:
            (folder / "result.json").write_text("{}")
        if code == 130:
            (folder / "checkpoint").mkdir()
            (folder / "checkpoint" / "step-000000001.pt").write_text("")
            signals.raised = True
        return code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stand_in = Runs()
    monkeypatch.setattr(sweeping, "_wait", stand_in.wait)
    return stand_in


def planned(folder: Path, **description: Any) -> Sweep:
    return Sweep(folder, {"narrow": RECIPE, "wide": WIDE}, (1, 2), {"seeds": [1, 2], **description})


def carried(sweep: Sweep) -> tuple[list[str], list[str]]:
    """The names of the runs that failed, and what was said."""
    said: list[str] = []
    failed = carry_out(sweep, device="cpu", say=said.append)
    return [str(run.folder.relative_to(sweep.folder)) for run in failed], said


def test_every_group_is_trained_with_every_seed_seed_by_seed(tmp_path: Path, runs: Runs) -> None:
    assert carried(planned(tmp_path))[0] == []
    begun = [(words[words.index("--folder") + 1], words[2]) for words in runs.words]
    assert begun == [
        (str(tmp_path / "narrow" / "seed-1"), "--training.seed=1"),
        (str(tmp_path / "wide" / "seed-1"), "--training.seed=1"),
        (str(tmp_path / "narrow" / "seed-2"), "--training.seed=2"),
        (str(tmp_path / "wide" / "seed-2"), "--training.seed=2"),
    ]
    assert from_json(Recipe, json.loads(Path(runs.words[1][1]).read_text())) == WIDE
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"seeds": [1, 2]}


def test_a_failed_run_is_told_and_tried_again_while_finished_ones_are_skipped(
    tmp_path: Path, runs: Runs
) -> None:
    runs.codes = {"wide/seed-1": 2, "narrow/seed-2": -9}
    assert carried(planned(tmp_path))[0] == ["wide/seed-1", "narrow/seed-2"]
    assert len(runs.words) == 4
    runs.words, runs.codes = [], {}
    failed, said = carried(planned(tmp_path))
    assert failed == []
    assert [words[-3] for words in runs.words] == [
        str(tmp_path / "wide" / "seed-1"),
        str(tmp_path / "narrow" / "seed-2"),
    ]
    assert said == [
        f"run 1 of 4: {tmp_path}/narrow/seed-1 is finished",
        f"run 2 of 4: {tmp_path}/wide/seed-1",
        f"run 3 of 4: {tmp_path}/narrow/seed-2",
        f"run 4 of 4: {tmp_path}/wide/seed-2 is finished",
    ]


def test_an_interrupted_run_ends_the_sweep_and_is_resumed_by_the_next(tmp_path: Path, runs: Runs) -> None:
    runs.codes = {"wide/seed-1": 130}
    with pytest.raises(Interrupted):
        carried(planned(tmp_path))
    assert len(runs.words) == 2
    runs.words, runs.codes = [], {}
    assert carried(planned(tmp_path))[0] == []
    assert runs.words[0] == ["train", "--resume", str(tmp_path / "wide" / "seed-1"), "--device", "cpu"]
    assert len(runs.words) == 3


def test_what_has_no_checkpoint_yet_begins_anew(tmp_path: Path, runs: Runs) -> None:
    left = tmp_path / "wide" / "seed-2"
    left.mkdir(parents=True)
    (left / "recipe.json").write_text("{}")
    carried(planned(tmp_path))
    assert not (left / "recipe.json").exists()
    assert runs.words[-1][0:2] == ["train", str(tmp_path / "wide" / "recipe.json")]


def test_another_sweep_in_the_folder_is_refused_with_what_differs(tmp_path: Path, runs: Runs) -> None:
    carried(planned(tmp_path, recipe={"training": {"rows": 8}}, sets={}))
    runs.words = []
    other = planned(tmp_path, recipe={"training": {"rows": 16}}, sets={"model.width": ["8"]})
    with pytest.raises(
        BytegolfError, match=r"recipe\.training\.rows is 8 there and 16 here; sets\.model\.width"
    ):
        carried(other)
    assert runs.words == []
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(BytegolfError, match="is not JSON"):
        carried(other)


def test_a_folder_is_worked_on_by_one_sweep_at_a_time(tmp_path: Path, runs: Runs) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BytegolfError, match="is at work in"):
            carried(planned(tmp_path))
    assert runs.words == []
    assert carried(planned(tmp_path))[0] == []


def test_a_run_that_outlives_its_sweep_keeps_the_lock(tmp_path: Path) -> None:
    with sweeping._locked(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(BytegolfError, match="left behind"), sweeping._locked(tmp_path):
        pass
    child.communicate(b"\n", timeout=30)
    with sweeping._locked(tmp_path):
        pass


def test_a_wish_to_stop_reaches_the_child_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The child counts how often it is asked, and stays a while to be asked again.
    package = tmp_path / "bytegolf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import pathlib, signal, sys, time\n"
        "asked = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
        "pathlib.Path(sys.argv[1]).write_text('')\n"
        "while not asked: time.sleep(0.01)\n"
        "time.sleep(0.7)\n"
        "sys.exit(130 + len(asked))\n"
    )
    monkeypatch.chdir(tmp_path)
    ready = tmp_path / "ready"

    signals = StopSignals()

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.01)
        signals.raised = True

    thread = threading.Thread(target=stop)
    thread.start()
    with sweeping._locked(tmp_path) as lock:
        assert sweeping._wait([str(ready)], lock, signals) == 131
    thread.join()


def test_a_stop_signal_interrupts_the_sweep(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(words: Sequence[str], lock: int, signals: StopSignals) -> int:
        signal.raise_signal(signal.SIGTERM)
        assert signals.raised
        return runs.wait(words, lock, signals)

    monkeypatch.setattr(sweeping, "_wait", wait)
    with pytest.raises(Interrupted):
        carried(planned(tmp_path))
    assert len(runs.words) == 1


def test_groups_of_one_text_and_tokenizer_share_their_tokens(tmp_path: Path) -> None:
    other = replace(RECIPE, tokens=Bytes())
    longer = replace(RECIPE, text=Text(sources=("python",)))
    own = replace(RECIPE, prepared="elsewhere")
    groups = {"a": RECIPE, "b": WIDE, "c": other, "d": own, "e": longer, "f": other}
    places = {name: recipe.prepared for name, recipe in with_shared_tokens(tmp_path, groups).items()}
    first, second, third = (str(tmp_path / name) for name in ("data", "data-2", "data-3"))
    assert places == {"a": first, "b": first, "c": second, "d": "elsewhere", "e": third, "f": second}
