"""Rows that are joined into longer ones late in training: most of it at the cost of short rows.

Shapes: B rows, T tokens, J rows that are joined, B' = B / J, T' = J·T.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.training.stages import Switch


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


class JoinedRows(Switch):
    """How many rows are read as one: each alone, until the training stage that joins them begins."""

    name = "longer rows"

    def __init__(self, spec: LongerRows | None = None, rows: int = 0) -> None:
        """`rows`: of a rank's batch. Raises `RecipeError` if they cannot be joined without a rest."""
        self.at, self.most = (0.0, 1) if spec is None else (spec.start, spec.times)
        if rows % self.most:
            raise RecipeError(
                f"{rows} rows a process cannot be joined {self.most} at a time; choose training.rows so "
                "that each process gets a multiple of longer_rows.times"
            )
        #: How many rows are read as one now.
        self.times = 1

    @property
    def stages(self) -> list["JoinedRows"]:
        """The stage that joins rows, if they are ever joined."""
        return [self] if self.most > 1 else []

    def joined(self, rows_BT: Tensor) -> Tensor:
        """The same tokens in fewer, longer rows: (B, T) -> (B', T')."""
        return rows_BT.view(rows_BT.shape[0] // self.times, -1)

    @contextmanager
    def joining(self, times: int) -> Iterator[None]:
        """So many rows are read as one for as long as this lasts."""
        before, self.times = self.times, times
        try:
            yield
        finally:
            self.times = before

    def enter(self) -> None:
        self.times = self.most
