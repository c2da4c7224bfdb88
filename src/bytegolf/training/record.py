"""metrics.jsonl: the truth about a run, one JSON object a line, on disk before training goes on."""

import json
import os
from pathlib import Path
from typing import Any


class Record:
    """Appends events to a metrics file; a resumed run goes on where the file ends."""

    def __init__(self, path: Path | None) -> None:
        """`path` None records nothing (ranks that do not lead)."""
        if path is not None:
            _end_with_a_line(path)
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        """One line: {"event": event, …values}."""
        if self._file is None:
            return
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _end_with_a_line(path: Path) -> None:
    """Cuts off what a killed run left of its last line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
