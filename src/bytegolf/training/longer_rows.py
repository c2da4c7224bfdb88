"""Rows that are joined into longer ones late in training: most of it at the cost of short rows.

Shapes: B rows, T tokens, J rows that are joined, B' = B / J, T' = J·T.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bytegolf.errors import RecipeError


@dataclass(frozen=True)
class LongerRows:
    """From the share `start` of the budget on, `times` consecutive rows are read as one.

    Rows of a batch continue one another, so a step keeps its tokens; what changes is how far back each may
    look. Staged training of Press et al. 2020 (Shortformer, arXiv 2012.15832).
    """

    start: float = 0.75
    times: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < 1.0:
            raise RecipeError(f"longer_rows.start={self.start}; give a share of the budget, 0 ≤ start < 1")
        if self.times < 2:
            raise RecipeError(f"longer_rows.times={self.times}; give 2 or more rows to join, or none")


class JoinedRows:
    """A training stage: before it rows are as they come, from then on joined."""

    name = "longer rows"

    def __init__(self, spec: LongerRows, rows: int) -> None:
        """`rows`: of a rank's batch. Raises `RecipeError` if they cannot be joined without a rest."""
        if rows % spec.times:
            raise RecipeError(
                f"{rows} rows a process cannot be joined {spec.times} at a time; choose training.rows so "
                "that each process gets a multiple of longer_rows.times"
            )
        self.at, self.spec = spec.start, spec
        #: How many rows are read as one now.
        self.times = 1

    def joined(self, rows_BT: Tensor) -> Tensor:
        """The same tokens in fewer, longer rows: (B, T) -> (B', T')."""
        return rows_BT.view(rows_BT.shape[0] // self.times, -1)

    @contextmanager
    def all_joined(self) -> Iterator[None]:
        """Rows are joined for as long as this lasts."""
        before, self.times = self.times, self.spec.times
        try:
            yield
        finally:
            self.times = before

    def prepare(self) -> None:
        """Nothing: `Trainer.warm_up` runs rows of both lengths."""

    def enter(self) -> None:
        self.times = self.spec.times

    def after_update(self) -> None:
        """Nothing: rows stay joined."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self.enter()
