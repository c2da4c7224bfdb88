"""The recipe's part on compression: how weights are stored, in how many bytes, and what training sees."""

from dataclasses import dataclass

from bytegolf.compression.floats import Float16
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.storage import Storage
from bytegolf.compression.ternary import Binary
from bytegolf.errors import RecipeError
from bytegolf.model.roles import Role

#: From fine to coarse: half precision, then grids about half a bit a weight apart, 6.9 down to 1.8 bits.
DEFAULT_CHOICES = (
    Float16(),
    Grid(8, StandardDeviations(4.5)),
    Grid(8, StandardDeviations(6.2)),
    Grid(8, StandardDeviations(8.5)),
    Grid(8, StandardDeviations(12.5)),
    Grid(8, StandardDeviations(18)),
    Grid(7, StandardDeviations(13)),
    Grid(7, StandardDeviations(19)),
    Grid(6, StandardDeviations(13.5)),
    Grid(5, StandardDeviations(9.6)),
    Grid(5, StandardDeviations(13.5)),
    Grid(4, StandardDeviations(8.5)),
)


@dataclass(frozen=True, slots=True)
class RoleGrid:
    """The grid of one role, or another way to store it."""

    role: Role
    grid: Storage

    def __post_init__(self) -> None:
        if self.role == Role.SCALAR:
            raise RecipeError("role scalar has no grid; vectors and scalars are stored as floats")
        if self.role == Role.GATE:
            raise RecipeError("role gate has no grid in a plan; set compression.gates")


@dataclass(frozen=True, slots=True)
class FixedBits:
    """The same grid for every matrix, but for the roles listed."""

    grid: Storage = Grid(8)
    exceptions: tuple[RoleGrid, ...] = ()

    def __post_init__(self) -> None:
        roles = [exception.role for exception in self.exceptions]
        if len(set(roles)) != len(roles):
            raise RecipeError(f"a role stands twice among {', '.join(roles)}; give each one grid")

    def grids(self) -> dict[str, Storage]:
        """The grid of every role."""
        stored = [role for role in Role if role not in (Role.SCALAR, Role.GATE)]
        plan: dict[str, Storage] = {str(role): self.grid for role in stored}
        return plan | {str(exception.role): exception.grid for exception in self.exceptions}


@dataclass(frozen=True, slots=True)
class FitBytes:
    """Storage for each role, so that the file meets its budget with the least predicted loss.

    Out of `choices` and, with `between`, of steps between those of two that are grids of k standard
    deviations. With `by_depth` early, looped, middle and late layers may differ.
    """

    choices: tuple[Storage, ...] = DEFAULT_CHOICES
    between: bool = True
    by_depth: bool = True

    def __post_init__(self) -> None:
        if not self.choices:
            raise RecipeError("no grid to choose from; give one or more")


@dataclass(frozen=True, slots=True)
class Noise:
    """Noisy training: the forward pass sees W + u · step, u uniform in [-1/2, 1/2], drawn anew each step.

    The step is that of the grid that exports. It begins at the share `start` of training. `roles`: whose
    matrices (None: all that the plan quantizes); `looped_only`: only those of blocks that run more than once.
    """

    start: float = 0.0
    roles: tuple[Role, ...] | None = None
    looped_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise RecipeError(f"noise.start is {self.start:g}; give a share of training in [0, 1)")
        if self.roles is not None and (not self.roles or Role.SCALAR in self.roles):
            raise RecipeError("noise.roles needs one or more roles of matrices; scalars have no grid")


@dataclass(frozen=True, slots=True)
class Compression:
    """How weights become bytes.

    `budget_bytes` bounds the artifact. From the share `quantization_aware_from` of training on, the forward
    pass sees quantized weights (None: never). Where published recipes switch by the learning rate's
    multiplier, "late QAT below m", that share is 1 - m · `warmdown` (see `Training.progress_below`). `noise`
    is its gentler sibling; where both would act on a matrix, the one that began later does (noise, if they
    begin together). Matrices of fewer than `passthrough_elements` weights, vectors and scalars are stored as
    float16.

    `prune` zeroes that share of each matrix, the smallest magnitudes, before quantization. With
    `prune_to_fit` a file over its budget is brought to it by zeroing the cheapest integers ±1, instead of by
    other grids.

    With `gptq` the matrices on integer grids are rounded by what their inputs looked like on some text, once
    training is over; all others, and what training sees of the grids, stay as they are. `correction` then
    adds what that lost of the worst of them. With `gates`, matrices of gates go on this grid whatever their
    size; they are float16 otherwise.
    """

    plan: FixedBits | FitBytes = FixedBits()
    budget_bytes: int | None = None
    quantization_aware_from: float | None = None
    passthrough_elements: int = 4096
    noise: Noise | None = None
    prune: float = 0.0
    prune_to_fit: bool = False
    gptq: Gptq | None = None
    correction: LowRankCorrection | None = None
    gates: Grid | None = None

    def __post_init__(self) -> None:
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise RecipeError(f"budget_bytes is {self.budget_bytes}; give a number above 0, or none")
        if self.budget_bytes is None and isinstance(self.plan, FitBytes):
            raise RecipeError("plan FitBytes needs budget_bytes; set it, or use FixedBits")
        if self.budget_bytes is None and self.prune_to_fit:
            raise RecipeError("prune_to_fit needs budget_bytes; set it, or switch prune_to_fit off")
        start = self.quantization_aware_from
        if start is not None and not 0 <= start < 1:
            raise RecipeError(f"quantization_aware_from is {start:g}; give a share of training in [0, 1)")
        if self.passthrough_elements < 0:
            raise RecipeError(f"passthrough_elements is {self.passthrough_elements}; give 0 or more")
        if not 0 <= self.prune < 1:
            raise RecipeError(f"prune is {self.prune:g}; give a share of the weights in [0, 1)")
        if self.prune and any(isinstance(storage, Binary) for storage in self._storages()):
            raise RecipeError(f"prune is {self.prune:g}, but binary matrices hold no zeros; set it to 0")
        if self.prune and any(isinstance(storage, Grid) and storage.rotated for storage in self._storages()):
            raise RecipeError(f"prune is {self.prune:g}, but rotated grids keep no zeros; set it to 0")
        if self.gptq is not None and not any(isinstance(storage, Grid) for storage in self._storages()):
            raise RecipeError(
                "gptq is set, but the plan has no integer grid to round to; add one, or set gptq to none"
            )

    def _storages(self) -> tuple[Storage, ...]:
        if isinstance(self.plan, FitBytes):
            return self.plan.choices
        return tuple(self.plan.grids().values())
