"""The recipe's part on compression: which grids, which byte budget, and when training starts to see them."""

from dataclasses import dataclass

from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.errors import RecipeError
from bytegolf.model.roles import Role

#: Steps from fine to coarse, about 0.4 bits a weight apart: 5.9 down to 1.8 bits.
DEFAULT_CHOICES = (
    Grid(8, StandardDeviations(8.5)),
    Grid(8, StandardDeviations(11.5)),
    Grid(8, StandardDeviations(15)),
    Grid(8, StandardDeviations(20)),
    Grid(7, StandardDeviations(13)),
    Grid(7, StandardDeviations(17)),
    Grid(6, StandardDeviations(11)),
    Grid(6, StandardDeviations(14.5)),
    Grid(5, StandardDeviations(9)),
    Grid(5, StandardDeviations(12)),
    Grid(4, StandardDeviations(7)),
    Grid(4, StandardDeviations(8.5)),
)


@dataclass(frozen=True, slots=True)
class RoleGrid:
    """The grid of one role."""

    role: Role
    grid: Grid

    def __post_init__(self) -> None:
        if self.role == Role.SCALAR:
            raise RecipeError("role scalar has no grid; vectors and scalars are stored as floats")


@dataclass(frozen=True, slots=True)
class FixedBits:
    """The same grid for every matrix, but for the roles listed."""

    grid: Grid = Grid(8)
    exceptions: tuple[RoleGrid, ...] = ()

    def __post_init__(self) -> None:
        roles = [exception.role for exception in self.exceptions]
        if len(set(roles)) != len(roles):
            raise RecipeError(f"a role stands twice among {', '.join(roles)}; give each one grid")

    def grids(self) -> dict[str, Grid]:
        """The grid of every role."""
        plan = {str(role): self.grid for role in Role if role != Role.SCALAR}
        return plan | {str(exception.role): exception.grid for exception in self.exceptions}


@dataclass(frozen=True, slots=True)
class FitBytes:
    """One of `choices` for each role, so that the file meets its budget with the least predicted loss."""

    choices: tuple[Grid, ...] = DEFAULT_CHOICES

    def __post_init__(self) -> None:
        if not self.choices:
            raise RecipeError("no grid to choose from; give one or more")


@dataclass(frozen=True, slots=True)
class Compression:
    """How weights become bytes.

    `budget_bytes` bounds the artifact. From the share `quantization_aware_from` of training on, the forward
    pass sees quantized weights (None: never). Matrices of fewer than `passthrough_elements` weights, vectors
    and scalars are stored as float16.
    """

    plan: FixedBits | FitBytes = FixedBits()
    budget_bytes: int | None = None
    quantization_aware_from: float | None = None
    passthrough_elements: int = 4096

    def __post_init__(self) -> None:
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise RecipeError(f"budget_bytes is {self.budget_bytes}; give a number above 0, or none")
        if self.budget_bytes is None and isinstance(self.plan, FitBytes):
            raise RecipeError("plan FitBytes needs budget_bytes; set it, or use FixedBits")
        start = self.quantization_aware_from
        if start is not None and not 0 <= start < 1:
            raise RecipeError(f"quantization_aware_from is {start:g}; give a share of training in [0, 1)")
        if self.passthrough_elements < 0:
            raise RecipeError(f"passthrough_elements is {self.passthrough_elements}; give 0 or more")
