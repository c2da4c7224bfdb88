"""Budgets of seconds, tokens and steps: the first one reached ends the training."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bytegolf.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """What training may use; None is no limit, but one limit is needed.

    seconds: training time, compilation, validation and saving aside. tokens: target tokens over all
    ranks. steps: optimizer steps.
    """

    seconds: float | None = None
    tokens: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        limits = {"seconds": self.seconds, "tokens": self.tokens, "steps": self.steps}
        for name, limit in limits.items():
            if limit is not None and limit <= 0:
                raise BudgetError(f"budget.{name}={limit}; give a positive number, or None for no limit")
        if all(limit is None for limit in limits.values()):
            raise BudgetError("the budget has no limit; set budget.seconds, budget.tokens or budget.steps")

    def check(self, tokens_per_step: int) -> None:
        """Raises `BudgetError` if not even one step fits."""
        if self.tokens is not None and self.tokens < tokens_per_step:
            raise BudgetError(
                f"budget.tokens={self.tokens} is too small for one step of {tokens_per_step} tokens; "
                "raise it, or lower training.rows or training.length"
            )

    def progress(self, seconds: float, tokens: int, steps: int) -> float:
        """The share of the budget that is used, 0 to 1 and beyond: the largest over the limits."""
        pairs = ((seconds, self.seconds), (tokens, self.tokens), (steps, self.steps))
        return max(used / limit for used, limit in pairs if limit is not None)

    def total_steps(self, tokens_per_step: int) -> float | None:
        """How many steps the budget holds; None if seconds limit it, since machines differ."""
        if self.seconds is not None:
            return None
        return self.steps_left(0.0, 0, 0, tokens_per_step)

    def steps_left(self, seconds: float, tokens: int, steps: int, tokens_per_step: int) -> float:
        """How many more steps fit, not rounded; of time, at the mean duration of the steps so far."""
        left = [math.inf]
        if self.seconds is not None and seconds > 0:
            left.append(steps * (self.seconds - seconds) / seconds)
        if self.tokens is not None:
            left.append((self.tokens - tokens) / tokens_per_step)
        if self.steps is not None:
            left.append(self.steps - steps)
        return min(left)

    def allows(
        self, seconds: float, tokens: int, steps: int, *, next_seconds: float, next_tokens: int
    ) -> bool:
        """Whether one more step, expected to take that long, stays inside every limit."""
        return (
            (self.seconds is None or seconds + next_seconds <= self.seconds)
            and (self.tokens is None or tokens + next_tokens <= self.tokens)
            and (self.steps is None or steps + 1 <= self.steps)
        )


class Stopwatch:
    """Training seconds: runs only between `start` and `pause`, and can continue from a saved count."""

    def __init__(self, seconds: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._before, self._clock = seconds, clock
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        running = 0.0 if self._started is None else self._clock() - self._started
        return self._before + running

    def start(self) -> None:
        if self._started is None:
            self._started = self._clock()

    def pause(self) -> None:
        self._before, self._started = self.seconds, None

    def restore(self, seconds: float) -> None:
        """Stands still at `seconds`, the count of an earlier run."""
        self._before, self._started = seconds, None


class Pace:
    """What a step takes, seen from a clock that is read now and then while steps are under way.

    The median of the last eight finished steps, because one slow step, such as the first, is no forecast. A
    resumed run knows from its `seconds` and `steps` what a step takes; a fresh one must try.
    """

    def __init__(self, seconds: float = 0.0, steps: int = 0) -> None:
        self._durations = deque([seconds / steps] if steps else [], maxlen=8)
        self._from_idle: deque[float] = deque(maxlen=8)
        self._steps, self._since, self._was_idle = steps, seconds, True

    @property
    def known(self) -> bool:
        return bool(self._durations)

    @property
    def step_seconds(self) -> float:
        """What a step takes; 0 as long as nothing is known."""
        return statistics.median(self._durations) if self._durations else 0.0

    @property
    def idle_step_seconds(self) -> float:
        """What a step takes that begins with nothing under way, and so with a wait for its first work.

        No less than the fastest of the last eight of these: few of them are typical, the first least.
        """
        return max(self.step_seconds, min(self._from_idle, default=0.0))

    def idle(self, seconds: float, steps: int) -> None:
        """At `seconds`, all `steps` that were begun are finished: the next one begins no sooner."""
        self.running(seconds, steps)
        self._since, self._was_idle = seconds, True

    def running(self, seconds: float, steps: int) -> float:
        """At `seconds`, `steps` are finished and one more is under way; when that one ends, as it seems."""
        if steps > self._steps:
            duration = seconds - self._since
            self._durations.append(duration)
            if self._was_idle:
                self._from_idle.append(duration)
            self._steps, self._since, self._was_idle = steps, seconds, False
        return max(seconds, self._since + self.step_seconds)
