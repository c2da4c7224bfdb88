"""The learning rate as a factor on each group's own rate, over the share of the budget that is used."""

from dataclasses import dataclass

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class Schedule:
    """Linear rise over the first `warmup` of the budget, then 1, then a linear fall over the last `warmdown`.

    The fall ends at 0 but never goes below `floor`. All three are shares (0 to 1); where rise and fall
    overlap, the smaller of the two counts.
    """

    warmup: float = 0.0
    warmdown: float = 0.5
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "warmdown", "floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"schedule.{name}={getattr(self, name)} is outside 0..1")

    def multiplier(self, progress: float) -> float:
        """The factor at `progress` (0 to 1; beyond counts as 1)."""
        progress = min(max(progress, 0.0), 1.0)
        falling = min(1.0, (1.0 - progress) / self.warmdown) if self.warmdown else 1.0
        factor = max(falling, self.floor)
        if progress < self.warmup:
            # Half a percent keeps the very first step from being lost.
            return min(factor, max(progress / self.warmup, 0.005))
        return factor
