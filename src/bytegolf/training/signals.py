"""Being asked to stop: Ctrl-C and SIGTERM become a flag that the loop looks at between steps."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM); its state is saved."""


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a flag while the loop runs; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._raise)
            except ValueError:
                # Only the main thread may listen; elsewhere the caller's handling stays.
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.raised = True
