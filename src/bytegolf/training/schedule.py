"""Factors on learning rates and on weight decay, over the share of the budget that is used."""

from dataclasses import dataclass

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class Schedule:
    """Linear rise over the first `warmup` of the budget, then 1, then a linear fall over the last `warmdown`.

    The fall ends at 0 but never goes below `floor`. All three are shares (0 to 1); where rise and fall
    overlap, the smaller of the two counts. warmdown=1 falls from the first step on.
    """

    warmup: float = 0.0
    warmdown: float = 0.5
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "warmdown", "floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"schedule.{name}={getattr(self, name)} is outside 0..1")

    def multiplier(self, progress: float, steps_left: float) -> float:
        """The factor at `progress` (0 to 1; beyond counts as 1), however many steps are left."""
        progress = min(max(progress, 0.0), 1.0)
        falling = min(1.0, (1.0 - progress) / self.warmdown) if self.warmdown else 1.0
        return _risen(max(falling, self.floor), progress, self.warmup)

    @property
    def lowest(self) -> float:
        """What the factor falls to."""
        return self.floor if self.warmdown else 1.0

    def falls_below(self, multiplier: float, steps: float | None) -> float:
        """The progress at which the factor falls past `multiplier` (0 to 1) for good, whatever `steps`.

        Raises `RecipeError` if it never does.
        """
        if self.lowest >= multiplier:
            raise _never(multiplier, self.lowest)
        return max(0.0, 1.0 - multiplier * self.warmdown)


@dataclass(frozen=True)
class StepSchedule:
    """Like `Schedule`, but the fall takes the last `warmdown` steps (the challenge's `warmdown_iters`).

    Under a budget of seconds the number of steps left is projected: what remains of the time over the mean
    time of a step so far. More steps than there are fall from below 1 on.
    """

    warmdown: int = 1200
    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmdown < 1:
            raise RecipeError(f"schedule.warmdown={self.warmdown}; give 1 step or more")
        for name in ("warmup", "floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"schedule.{name}={getattr(self, name)} is outside 0..1")

    def multiplier(self, progress: float, steps_left: float) -> float:
        """The factor at `progress` (0 to 1; beyond counts as 1), before the first of `steps_left` steps."""
        progress = min(max(progress, 0.0), 1.0)
        falling = min(1.0, max(steps_left, 0.0) / self.warmdown)
        return _risen(max(falling, self.floor), progress, self.warmup)

    @property
    def lowest(self) -> float:
        """What the factor falls to."""
        return self.floor

    def falls_below(self, multiplier: float, steps: float | None) -> float:
        """The progress at which the factor falls past `multiplier` (0 to 1), in a run of `steps` steps.

        Raises `RecipeError` if it never does, or if the number of steps is not known in advance (None).
        """
        if self.lowest >= multiplier:
            raise _never(multiplier, self.lowest)
        if steps is None:
            raise RecipeError(
                f"schedule.warmdown={self.warmdown} counts steps, and how many fit into its seconds is not "
                f"known in advance, nor when the learning rate falls below {multiplier:g}; take the type "
                "Schedule, or a budget of steps or tokens alone"
            )
        return max(0.0, 1.0 - multiplier * self.warmdown / steps)


#: What a recipe can choose.
RateSchedule = Schedule | StepSchedule


@dataclass(frozen=True)
class Taper:
    """1 up to `start` of the budget, then linear to `end` when it is used up (16 MB challenge, PR 1729)."""

    start: float = 0.7
    end: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < 1.0:
            raise RecipeError(f"decay_taper.start={self.start}; give a share of the budget, 0 ≤ start < 1")
        if not self.end >= 0.0:
            raise RecipeError(f"decay_taper.end={self.end}; give 0 or more")

    def factor(self, progress: float) -> float:
        """The factor at `progress` (0 to 1; beyond counts as 1)."""
        fallen = (min(progress, 1.0) - self.start) / (1.0 - self.start)
        return 1.0 + max(0.0, fallen) * (self.end - 1.0)


def _risen(factor: float, progress: float, warmup: float) -> float:
    if progress < warmup:
        # Half a percent keeps the very first step from being lost.
        return min(factor, max(progress / warmup, 0.005))
    return factor


def _never(multiplier: float, lowest: float) -> RecipeError:
    return RecipeError(
        f"the learning rate never falls below {multiplier:g} of its full value, only to {lowest:g}; "
        "lower schedule.floor, set schedule.warmdown, or name a higher share"
    )
