"""How many bytes a recipe's artifact will take, before any weight is trained.

Trained rows are close to Gaussian, and a row's scale follows its spread, so the coded size of a matrix
depends on its shape and grid alone: it is what the coder's model gives for Gaussian weights. For clips of k
standard deviations that is about 2.047 − log2(k / q) bits a weight, with q the grid's largest integer.
"""

import functools
import math
from dataclasses import dataclass

import torch

from bytegolf.artifact.container import Contents, pack
from bytegolf.compression.costs import TENSOR_OVERHEAD_BYTES, estimate_bytes
from bytegolf.compression.plan import Plan, is_matrix
from bytegolf.compression.residual import LowRankCorrection, correction_bytes
from bytegolf.compression.spec import FixedBits
from bytegolf.compression.storage import Storage
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.tree import to_json

#: Rows that are coded to find the bytes of a row; their count is known to 1 % from far fewer.
_SAMPLED_ROWS = 128


@dataclass(frozen=True)
class RolePlan:
    """One role's matrices in the artifact."""

    role: str
    grid: Storage
    parameters: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.bytes / self.parameters


@dataclass(frozen=True)
class ArtifactPlan:
    """The predicted artifact.

    Under FitBytes the grids are chosen from trained weights; `roles` then shows the finest single choice that
    fits (the coarsest if none does), and least_bytes what the coarsest would take.
    """

    roles: tuple[RolePlan, ...]
    tokenizer_bytes: int
    other_bytes: int
    budget_bytes: int | None
    least_bytes: int | None

    @property
    def total_bytes(self) -> int:
        return self.tokenizer_bytes + self.other_bytes + sum(role.bytes for role in self.roles)


def artifact_plan(model: LanguageModel, recipe: Recipe, tokenizer_bytes: int) -> ArtifactPlan:
    """The prediction for a model on the meta device."""
    spec = recipe.compression
    roles = parameter_roles(model)
    shapes: dict[str, list[tuple[int, int]]] = {}
    rest: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    gates: Plan = {} if spec.gates is None else {str(Role.GATE): spec.gates}
    for name, value in model.named_parameters():
        gridded = value.dim() == 2 and str(roles[name]) in gates
        if gridded or is_matrix(value, str(roles[name]), spec.passthrough_elements):
            shapes.setdefault(str(roles[name]), []).append((value.shape[0], value.shape[1]))
        elif value.numel():
            # Trained scalars don't repeat as their start values do.
            rest[name] = torch.randn(value.shape, generator=generator)
    contents = Contents(to_json(recipe), b"", dict(rest), dict.fromkeys(rest, str(Role.SCALAR)), {})
    other = pack(contents)[1].total_bytes + _corrections(shapes, spec.correction)
    if isinstance(spec.plan, FixedBits):
        return ArtifactPlan(
            _roles(shapes, spec.plan.grids() | gates), tokenizer_bytes, other, spec.budget_bytes, None
        )
    candidates = sorted(
        (
            ArtifactPlan(
                _roles(shapes, dict.fromkeys(shapes, grid) | gates),
                tokenizer_bytes,
                other,
                spec.budget_bytes,
                None,
            )
            for grid in spec.plan.choices
        ),
        key=lambda plan: plan.total_bytes,
    )
    assert spec.budget_bytes is not None
    fitting = [plan for plan in candidates if plan.total_bytes <= spec.budget_bytes]
    chosen = fitting[-1] if fitting else candidates[0]
    return ArtifactPlan(chosen.roles, tokenizer_bytes, other, spec.budget_bytes, candidates[0].total_bytes)


def _corrections(shapes: dict[str, list[tuple[int, int]]], spec: LowRankCorrection | None) -> int:
    """Bytes of corrections, as if the largest matrices had them."""
    if spec is None:
        return 0
    sizes = sorted(correction_bytes(shape, spec) for members in shapes.values() for shape in members)
    return sum(sizes[-spec.matrices :])


def _roles(shapes: dict[str, list[tuple[int, int]]], plan: Plan) -> tuple[RolePlan, ...]:
    return tuple(
        RolePlan(
            role,
            plan[role],
            sum(math.prod(shape) for shape in members),
            round(sum(gaussian_bytes(shape, plan[role]) for shape in members)),
        )
        for role, members in shapes.items()
    )


def gaussian_bytes(shape: tuple[int, int], grid: Storage) -> float:
    """Coded bytes of a Gaussian matrix (rows, columns) on a grid."""
    rows, columns = shape
    sampled = min(rows, _SAMPLED_ROWS)
    return _coded(sampled, columns, grid) * rows / sampled + TENSOR_OVERHEAD_BYTES


@functools.cache
def _coded(rows: int, columns: int, grid: Storage) -> float:
    weight_RC = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / columns**0.5
    return estimate_bytes(grid.quantize(weight_RC)) - TENSOR_OVERHEAD_BYTES
