"""Whole evaluations: results, resuming, and what is refused."""

import itertools
import json
import math
from pathlib import Path

import pytest
from toy_core import ITEMS, ScriptedReader, write_bundle

from bytegolf.errors import RecipeError
from bytegolf.evaluation.core.bundle import open_bundle
from bytegolf.evaluation.core.judging import Answer
from bytegolf.evaluation.core.prompts import drawn
from bytegolf.evaluation.core.record import Record, evaluate, settings_of
from bytegolf.evaluation.core.results import CoreResult, TaskResult, contamination, to_csv
from bytegolf.evaluation.core.tasks import TASKS, Task

#: "three" is foreseen, "four" is not.
SCRIPT = {"": dict.fromkeys(" thre", 0.1)}


def run(folder: Path, bundle: Path, reader: ScriptedReader, most: int | None = None) -> CoreResult:
    opened = open_bundle(bundle)
    record = Record(folder, settings_of(reader, opened, TASKS, most))
    return evaluate(reader, opened, TASKS, record, most, lambda task, done, total: None)


def test_a_whole_evaluation_by_hand(tmp_path: Path) -> None:
    result = run(tmp_path / "core", write_bundle(tmp_path / "bundle"), ScriptedReader(SCRIPT))
    by_label = {row.task.label: row for row in result.tasks}
    # "three" is right in 3 of 6.
    squad = by_label["squad"]
    assert (squad.items, squad.correct, squad.centered) == (6, 3, 0.5)
    assert squad.error == pytest.approx(0.5 / math.sqrt(6))
    # Both contexts of the schema share their end, so the first is chosen, and the second is right.
    winograd = by_label["winograd"]
    assert (winograd.accuracy, winograd.centered) == (0.0, -1.0)
    plain = json.loads((tmp_path / "core" / "core.json").read_text())
    assert plain["core"] == result.core == pytest.approx(sum(row["centered"] for row in plain["tasks"]) / 22)
    assert plain["error"] == pytest.approx(math.sqrt(sum(row["error"] ** 2 for row in plain["tasks"])) / 22)
    assert plain["published"][0]["core"] == 0.113891
    assert "passages of 2 articles that a Wikipedia of 2015 holds (Oxygen … Warsaw)" in plain["contamination"]
    lines = (tmp_path / "core" / "core.csv").read_text().splitlines()
    assert lines[0].split() == ["Task", ",", "Accuracy", ",", "Centered"]
    assert lines[19].split() == ["squad", ",", "0.500000", ",", "0.500000"]
    assert lines[-1].startswith("CORE ")
    assert len(lines) == 24


class Stopped(Exception):
    pass


def test_a_stopped_evaluation_goes_on(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    whole = run(tmp_path / "whole", bundle, ScriptedReader(SCRIPT))

    class Stopping(ScriptedReader):
        left = 9

        def predict(self, *arguments):
            if not self.left:
                raise Stopped
            self.left -= 1
            return super().predict(*arguments)

    with pytest.raises(Stopped):
        run(tmp_path / "core", bundle, Stopping(SCRIPT))
    assert not (tmp_path / "core" / "core.json").exists()
    files = sorted((tmp_path / "core" / "tasks").iterdir())
    assert 0 < len(files) < 22
    # The machine went down in the middle of a line.
    with files[0].open("a") as file:
        file.write('{"index": 3, "corr')
    reader = ScriptedReader(SCRIPT)
    assert run(tmp_path / "core", bundle, reader) == whole
    names = ("core.json", "core.csv", *(f"tasks/{task.label}.jsonl" for task in TASKS))
    for name in names:
        assert (tmp_path / "core" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = ScriptedReader(SCRIPT)
    assert run(tmp_path / "core", bundle, again) == whole
    assert reader.passes
    assert not again.passes


def test_a_mean_that_is_no_number_is_kept_as_none(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    record = Record(tmp_path / "core", settings_of(ScriptedReader(SCRIPT), bundle, TASKS, None))
    record.add(TASKS[0], [Answer(0, False, 1, (math.nan, 0.5))])
    line = (tmp_path / "core" / "tasks" / f"{TASKS[0].label}.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda word: pytest.fail(word))["nats"] == [None, 0.5]
    (answer,) = record.kept(TASKS[0])
    assert math.isnan(answer.nats[0])
    assert answer.nats[1] == 0.5


def test_answers_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    run(tmp_path / "core", bundle, ScriptedReader(SCRIPT), most=2)
    with pytest.raises(RecipeError, match="holds answers with max_per_task 2, not 3; give another --folder"):
        run(tmp_path / "core", bundle, ScriptedReader(SCRIPT), most=3)
    other = ScriptedReader(SCRIPT)
    other.digest = "1"
    with pytest.raises(RecipeError, match="holds answers with digest 0, not 1"):
        run(tmp_path / "core", bundle, other, most=2)


def test_a_cap_asks_the_first_of_the_draw(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    result = run(tmp_path / "core", bundle, ScriptedReader(SCRIPT), most=2)
    assert {row.items for row in result.tasks} == {2}
    squad = next(row for row in result.tasks if row.task.label == "squad")
    expected = [item["continuation"] == "three" for item in drawn(ITEMS["language_modeling"], 2)]
    assert squad.correct == sum(expected)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    reader = ScriptedReader(SCRIPT)
    record = Record(tmp_path / "core", settings_of(reader, bundle, TASKS[:2], None))

    def watch(task: Task, done: int, total: int) -> None:
        told.append((task.label, done, total))

    evaluate(reader, bundle, TASKS[:2], record, None, watch)
    assert told == [
        ("hellaswag_zeroshot", 0, 7),
        ("hellaswag_zeroshot", 7, 7),
        ("jeopardy", 0, 6),
        ("jeopardy", 6, 6),
    ]


def test_some_tasks_make_no_core() -> None:
    result = CoreResult((TaskResult(TASKS[5], 4, 3),))
    assert result.core is None
    assert result.error is None
    assert "CORE" not in to_csv(result)
    assert contamination(result, ("Oxygen", "Warsaw")) is None


def test_centered_accuracy() -> None:
    for task, (items, correct) in itertools.product(TASKS, [(10, 10), (1000, 0)]):
        row = TaskResult(task, items, correct)
        if correct:
            assert row.centered == pytest.approx(1.0)
        else:
            assert row.centered == pytest.approx(-task.baseline / (1 - task.baseline))
        assert row.error == 0
