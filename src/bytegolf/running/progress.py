"""What the user sees while a run works: one live line, and a line for each finished part."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bytegolf.training.budget import Budget
from bytegolf.training.loop import Progress


class Display:
    """Speaks on a console; silent without one (ranks that do not lead, tests)."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self._live: Live | None = None
        self._loss: float | None = None
        self._bits: float | None = None
        self._printed = 0.0

    def say(self, message: str) -> None:
        """One finished line."""
        if self.console is not None:
            self.console.print(message, highlight=False)

    @contextmanager
    def line(self) -> Iterator[None]:
        """Keeps one live line open; on a console that is no terminal, prints it every 10 seconds instead."""
        if self.console is None or not self.console.is_terminal:
            yield
            return
        with Live(Text("…"), console=self.console, refresh_per_second=8, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def update(self, message: str) -> None:
        """Replaces the live line."""
        if self._live is not None:
            self._live.update(Text(message))
        elif self.console is not None and time.monotonic() - self._printed >= 10.0:
            self._printed = time.monotonic()
            self.console.print(message, highlight=False)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A callback for (done, total)."""
        return lambda done, total: self.update(f"{what} {100 * done // max(total, 1)} %")

    def rate(self, what: str) -> Callable[[int, int], None]:
        """A callback for (done, total) tokens: share, tokens a second, time left."""
        began = time.monotonic()

        def show(done: int, total: int) -> None:
            seconds = max(time.monotonic() - began, 1e-9)
            left = _clock(seconds * (total - done) / max(done, 1))
            share = 100 * done // max(total, 1)
            self.update(f"{what} … {share} %  {done / seconds:,.0f} tokens/s  {left} left")

        return show

    def training(self, budget: Budget) -> Callable[[Progress], None]:
        """A callback for the training loop: loss, bits per byte, tokens a second, time left."""

        def show(progress: Progress) -> None:
            # Losses of single batches jump about; a short average is easier to follow.
            keep = 0.0 if self._loss is None else 0.9
            self._loss = keep * (self._loss or 0.0) + (1 - keep) * progress.loss
            self._bits = keep * (self._bits or 0.0) + (1 - keep) * progress.bits_per_byte
            left = progress.seconds * (1.0 / max(progress.share, 1e-9) - 1.0)
            if budget.seconds is not None:
                left = min(left, budget.seconds - progress.seconds)
            self.update(
                f"training {100 * min(progress.share, 1.0):3.0f} %  step {progress.step}  "
                f"loss {self._loss:.3f}  {self._bits:.3f} bits/byte  "
                f"{progress.tokens_per_second:,.0f} tokens/s  {_clock(left)} left"
            )

        return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
