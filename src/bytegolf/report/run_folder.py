"""What a run folder holds so far, as plain data. Whatever is absent stays empty: a run may be unfinished."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.errors import BytegolfError

_FILES = ("recipe.json", "environment.json", "metrics.jsonl", "result.json", "coloured.json")
_CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class Run:
    """The files of one run folder. `metrics` has a run's events in order, without what a resumption undid."""

    name: str
    recipe: Any
    environment: Any
    metrics: Sequence[Mapping[str, Any]]
    result: Any
    coloured: Any
    certificate: Any = None

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.metrics if event.get("event") == kind]

    def points(self, kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """Coordinates of one curve: the events of a kind where both fields are finite numbers."""
        pairs = [(number(event, x), number(event, y)) for event in self.events(kind)]
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in whole], [b for _, b in whole]


def read_run(folder: Path) -> Run:
    """Reads the files that `folder` has.

    Raises `BytegolfError` where it has none of them, or where one is not the JSON it should be. A last line
    of metrics.jsonl without its end is passed over: that is what a killed run leaves.
    """
    if not any((folder / name).is_file() for name in _FILES):
        raise BytegolfError(
            f"'{folder}' is no run folder: it has none of {', '.join(_FILES)}; name one that has"
        )
    return Run(
        name=folder.resolve().name,
        recipe=_read_json(folder / "recipe.json"),
        environment=_read_json(folder / "environment.json"),
        metrics=_without_undone(_read_lines(folder / "metrics.jsonl")),
        result=_read_json(folder / "result.json"),
        coloured=_read_json(folder / "coloured.json"),
        certificate=_read_json(folder / _CERTIFICATE),
    )


def find(data: Any, *path: str) -> Any:
    """The value under a path of keys; None where any of them is absent."""
    for key in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data


def number(data: Any, *path: str) -> float | None:
    """The finite number under a path of keys; None for anything else."""
    return finite(find(data, *path))


def finite(value: Any) -> float | None:
    """`value` where it is a number that a page can show; None for NaN, infinities and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return value


def rows(data: Any, *path: str) -> list[Mapping[str, Any]]:
    """The objects in the list under a path of keys; empty for anything else."""
    value = find(data, *path)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BytegolfError(f"'{path}' is not JSON ({error}); delete it or run again") from error


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            if count == len(lines):
                break
            raise BytegolfError(f"'{path}' line {count} is not JSON ({error}); delete that line") from error
        if isinstance(event, Mapping):
            events.append(event)
    return events


def _without_undone(events: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Drops what lies past the step that a later resumption went back to: it was computed again."""
    kept: list[Mapping[str, Any]] = []
    for event in events:
        step = number(event, "step")
        if event.get("event") == "resume" and step is not None:
            kept = [old for old in kept if (number(old, "step") or 0) <= step]
        kept.append(event)
    return kept
