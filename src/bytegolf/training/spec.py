"""Everything a recipe says about training."""

from dataclasses import dataclass
from typing import Literal

from bytegolf.errors import RecipeError
from bytegolf.training.averaging import Average, StochasticAverage, WeightAverage
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.longer_rows import LongerRows
from bytegolf.training.schedule import RateSchedule, Schedule

Precision = Literal["auto", "float64", "float32", "bfloat16"]


@dataclass(frozen=True)
class Training:
    """Settings of training.

    A step takes `rows` rows of `length` tokens, over all ranks; each forward pass takes at most
    `forward_rows` of them (gradients accumulate over the passes). clip: bound of the global gradient
    norm. average: which average of the weights, if any, is what gets compressed. precision: of the
    forward pass; weights and optimizer state are float32 (float64 for "float64"); auto takes bfloat16
    where the machine multiplies it fast. compile: auto compiles on GPUs. validate_at: shares of the
    budget at which validation runs. checkpoint_seconds: how often a checkpoint is written. z_loss: weight of
    the squared logarithm of the softmax's denominator, minimized beside the nats and part of no score; 0.0001
    is usual. longer_rows: whether, and from when on, several rows are read as one.
    """

    budget: Budget
    rows: int = 512
    length: int = 1024
    forward_rows: int = 64
    optimizers: Optimizers = Optimizers()
    schedule: RateSchedule = Schedule()
    clip: float | None = None
    average: WeightAverage | None = Average()
    seed: int = 1
    precision: Precision = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    validate_at: tuple[float, ...] = (0.25, 0.5, 0.75)
    checkpoint_seconds: float = 60.0
    z_loss: float = 0.0
    longer_rows: LongerRows | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "length", "forward_rows"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name}={getattr(self, name)}; give a positive number")
        if self.clip is not None and self.clip <= 0:
            raise RecipeError(f"training.clip={self.clip}; give a positive bound, or None for no clipping")
        if self.z_loss < 0:
            raise RecipeError(f"training.z_loss={self.z_loss}; give 0 for none, or a weight such as 0.0001")
        if any(not 0.0 < share < 1.0 for share in self.validate_at):
            raise RecipeError(f"training.validate_at={self.validate_at}; give shares between 0 and 1")
        self._check_longer_rows()
        if isinstance(self.average, StochasticAverage) and self.schedule.lowest >= self.average.below:
            raise RecipeError(
                f"training.average.below={self.average.below}, but the learning rate only falls to "
                f"{self.schedule.lowest:g}: nothing would be averaged; raise it, or lower schedule.floor"
            )
        self.budget.check(self.tokens_per_step)

    def _check_longer_rows(self) -> None:
        if self.longer_rows is None:
            return
        times = self.longer_rows.times
        for name in ("rows", "forward_rows"):
            if getattr(self, name) % times:
                raise RecipeError(
                    f"training.{name}={getattr(self, name)} cannot be joined {times} at a time; "
                    "choose a multiple, or another longer_rows.times"
                )

    @property
    def context(self) -> int:
        """Tokens of the longest rows that training has."""
        return self.length * (1 if self.longer_rows is None else self.longer_rows.times)

    @property
    def tokens_per_step(self) -> int:
        """Target tokens of one step over all ranks."""
        return self.rows * self.length

    def progress_below(self, multiplier: float) -> float:
        """The share of the budget from which the learning rates are less than `multiplier` times their own.

        For stages that are meant to begin late in the fall, such as quantization-aware training. Raises
        `RecipeError` if that never happens or cannot be known in advance.
        """
        return self.schedule.falls_below(multiplier, self.budget.total_steps(self.tokens_per_step))
