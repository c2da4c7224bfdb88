"""The folder in which answers are kept as they come, so that a stopped evaluation goes on."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bytegolf.errors import RecipeError
from bytegolf.evaluation.core.bundle import Bundle, Item
from bytegolf.evaluation.core.judging import Answer, answers
from bytegolf.evaluation.core.prompts import drawn
from bytegolf.evaluation.core.reader import Reader
from bytegolf.evaluation.core.results import CoreResult, TaskResult, to_csv, to_plain
from bytegolf.evaluation.core.tasks import Task
from bytegolf.files import atomic_write, write_json

_SETTINGS = "settings.json"

#: Is told of a task, and how many of how many of its items are done.
Watch = Callable[[Task, int, int], None]


class Record:
    """Answers below `folder`: tasks/LABEL.jsonl, a line each, beside the settings that they belong to."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Raises `RecipeError` if the folder holds answers that came about in another way."""
        self.folder, self.settings = folder, settings
        kept = folder / _SETTINGS
        if kept.exists():
            _refuse_others(json.loads(kept.read_text(encoding="utf-8")), settings, folder)
        else:
            write_json(kept, settings)

    def kept(self, task: Task) -> list[Answer]:
        """The task's answers so far. A last line that was cut off in writing is left out, and removed."""
        path = self._path(task)
        if not path.exists():
            return []
        found, whole = [], 0
        with path.open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                nats = (math.nan if mean is None else mean for mean in row["nats"])
                found.append(Answer(row["index"], row["correct"], row["option"], tuple(nats)))
                whole += len(line)
            file.truncate(whole)
        return found

    def add(self, task: Task, new: Sequence[Answer]) -> None:
        path = self._path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(_plain(answer)) + "\n" for answer in new)

    def _path(self, task: Task) -> Path:
        return self.folder / "tasks" / f"{task.label}.jsonl"


def _plain(answer: Answer) -> dict[str, Any]:
    """A line of JSON, which has no word for what is no number."""
    return asdict(answer) | {"nats": [None if math.isnan(mean) else mean for mean in answer.nats]}


def settings_of(reader: Reader, bundle: Bundle, tasks: Sequence[Task], most: int | None) -> dict[str, Any]:
    """All that answers depend on. most: items of a task that are asked at most."""
    return {
        "model": reader.name,
        "digest": reader.digest,
        "context": reader.context,
        "precision": reader.precision,
        "bundle": bundle.digest(tasks),
        "tasks": [task.label for task in tasks],
        "max_per_task": most,
    }


def evaluate(
    reader: Reader, bundle: Bundle, tasks: Sequence[Task], record: Record, most: int | None, watch: Watch
) -> CoreResult:
    """Asks whatever the record lacks, task by task, and writes core.json and core.csv beside it."""
    found = []
    for task in tasks:
        items = drawn(bundle.items(task), most)
        done = _asked(reader, task, items, record, watch)
        found.append(TaskResult(task, len(items), sum(answer.correct for answer in done)))
    result = CoreResult(tuple(found))
    plain = to_plain(result, record.settings, bundle.published, bundle.titles)
    write_json(record.folder / "core.json", plain)
    atomic_write(record.folder / "core.csv", to_csv(result).encode())
    return result


def _asked(reader: Reader, task: Task, items: Sequence[Item], record: Record, watch: Watch) -> list[Answer]:
    done = record.kept(task)
    known = {answer.index for answer in done}
    missing = [index for index in range(len(items)) if index not in known]
    watch(task, len(done), len(items))
    for new in answers(reader, task, items, missing):
        record.add(task, new)
        done += new
        watch(task, len(done), len(items))
    return done


def _refuse_others(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    for key, value in new.items():
        if old.get(key) != value:
            raise RecipeError(
                f"{folder} holds answers with {key} {_short(old.get(key))}, not {_short(value)}; "
                "give another --folder, or delete it"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
