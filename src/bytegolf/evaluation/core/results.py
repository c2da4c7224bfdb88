"""Accuracies of tasks, and CORE: their mean once guessing counts as 0."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bytegolf.evaluation.core.bundle import Published
from bytegolf.evaluation.core.tasks import TASKS, Task


@dataclass(frozen=True)
class TaskResult:
    """One task: how many of its items were asked, and how many answers were right."""

    task: Task
    items: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.items

    @property
    def centered(self) -> float:
        return self.task.centered(self.accuracy)

    @property
    def error(self) -> float:
        """Standard error of `centered` over the draw of items."""
        spread = math.sqrt(self.accuracy * (1.0 - self.accuracy) / self.items)
        return spread / (1.0 - self.task.baseline)


@dataclass(frozen=True)
class CoreResult:
    """All that were asked, in the order of `TASKS`. core is None unless all 22 were."""

    tasks: tuple[TaskResult, ...]

    @property
    def core(self) -> float | None:
        if len(self.tasks) < len(TASKS):
            return None
        return sum(row.centered for row in self.tasks) / len(self.tasks)

    @property
    def error(self) -> float | None:
        """Standard error of `core` over the draw of items."""
        if self.core is None:
            return None
        return math.sqrt(sum(row.error**2 for row in self.tasks)) / len(self.tasks)


def to_csv(result: CoreResult) -> str:
    """The table in the form in which the bundle has those of published models."""
    lines = [("Task", "Accuracy", "Centered")]
    lines += [(row.task.label, f"{row.accuracy:.6f}", f"{row.centered:.6f}") for row in result.tasks]
    if result.core is not None:
        lines.append(("CORE", "", f"{result.core:.6f}"))
    return "".join(f"{label:<35}, {accuracy:<10}, {centered:<10}\n" for label, accuracy, centered in lines)


def to_plain(
    result: CoreResult, settings: Mapping[str, Any], published: Sequence[Published], titles: Sequence[str]
) -> dict[str, Any]:
    """What core.json holds: the result, how it came about, and what it can be held against."""
    return {
        "core": result.core,
        "error": result.error,
        "settings": dict(settings),
        "tasks": [
            {
                **asdict(row.task),
                "items": row.items,
                "correct": row.correct,
                "accuracy": row.accuracy,
                "centered": row.centered,
                "error": row.error,
            }
            for row in result.tasks
        ],
        "published": [asdict(row) for row in published],
        "contamination": contamination(result, titles),
    }


def contamination(result: CoreResult, titles: Sequence[str]) -> str | None:
    """A warning where passages may have been trained on; None where nothing is known of that.

    titles: articles of which SQuAD has passages and which a Wikipedia of 2015 holds.
    """
    if not titles or all(row.task.label != "squad" for row in result.tasks):
        return None
    return (
        f"squad asks about passages of {len(titles)} articles that a Wikipedia of 2015 holds ({titles[0]} … "
        f"{titles[-1]}): a model that was trained on Wikipedia has read them"
    )
