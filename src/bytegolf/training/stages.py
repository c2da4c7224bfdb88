"""Changes that happen once, part-way through training: an action at a share of the budget."""

import math
from collections.abc import Sequence
from typing import Any, Protocol


class Stage(Protocol):
    """An action at progress `at` that may have to look after itself at every later step."""

    at: float
    name: str

    def prepare(self) -> None:
        """Gives the model the stage's form without changing what it computes.

        Called before training, so that code compiled then serves the stage too.
        """

    def enter(self) -> None:
        """Begins the stage; called once, before the first step at or past `at`."""

    def after_update(self) -> None:
        """Called after every update of the weights once the stage has begun."""

    def state_dict(self) -> dict[str, Any]:
        """What `restore` needs to begin the stage again exactly as it was."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Begins the stage from a checkpoint, after the weights were loaded."""


class Switch:
    """A stage that turns something over for good: nothing to look after, and that it has begun says all.

    `Trainer.warm_up` runs what is to come after it, so there is nothing to prepare either.
    """

    def prepare(self) -> None:
        pass

    def enter(self) -> None:
        raise NotImplementedError

    def after_update(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self.enter()


class Stages:
    """The stages of a run in order of their progress, and which have begun."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._waiting = sorted(stages, key=lambda stage: stage.at)
        self._active: list[Stage] = []

    def enter_due(self, progress: float) -> list[str]:
        """Begins every stage whose time has come; their names."""
        entered = []
        while self._waiting and progress >= self._waiting[0].at:
            stage = self._waiting.pop(0)
            stage.enter()
            self._active.append(stage)
            entered.append(stage.name)
        return entered

    @property
    def next_at(self) -> float:
        """The share at which the next stage begins; infinite if none is to come."""
        return self._waiting[0].at if self._waiting else math.inf

    def after_update(self) -> None:
        for stage in self._active:
            stage.after_update()

    def prepare(self) -> None:
        for stage in self._waiting:
            stage.prepare()

    def state_dict(self) -> list[dict[str, Any]]:
        return [stage.state_dict() for stage in self._active]

    def restore(self, states: list[dict[str, Any]]) -> None:
        for state in states:
            stage = self._waiting.pop(0)
            stage.restore(state)
            self._active.append(stage)
