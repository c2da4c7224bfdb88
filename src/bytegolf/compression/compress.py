"""A trained model's parameters to what an artifact stores, and the table that reports show of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.compression.grid import Grid, Quantized
from bytegolf.compression.plan import is_matrix
from bytegolf.errors import RecipeError


@dataclass(frozen=True, slots=True)
class RoleRow:
    """What became of one role's matrices. `relative_error` is ‖W - quantized W‖ / ‖W‖ over all of them."""

    role: str
    bits: int
    clip: str
    parameters: int
    bytes: int
    relative_error: float


def grid_of(
    name: str, tensor: Tensor, role: str, plan: Mapping[str, Grid], *, passthrough_elements: int
) -> Grid | None:
    """The grid of one parameter, or None if it is stored as floats: the one rule for training and export.

    Raises `RecipeError` if a matrix has a role without a grid.
    """
    if not is_matrix(tensor, role, passthrough_elements):
        return None
    if role not in plan:
        raise RecipeError(f"{name} has role {role}, for which the plan has no grid; add one")
    return plan[role]


def compress_model(
    parameters: Mapping[str, Tensor],
    roles: Mapping[str, str],
    plan: Mapping[str, Grid],
    *,
    passthrough_elements: int = 4096,
) -> dict[str, Quantized | Tensor]:
    """Every parameter on its grid, or as it is (detached, float32) where `grid_of` gives none."""
    compressed: dict[str, Quantized | Tensor] = {}
    for name, tensor in parameters.items():
        grid = grid_of(name, tensor, str(roles[name]), plan, passthrough_elements=passthrough_elements)
        compressed[name] = tensor.detach().to(torch.float32) if grid is None else grid.quantize(tensor)
    return compressed


def dequantize_model(compressed: Mapping[str, Quantized | Tensor]) -> dict[str, Tensor]:
    """The float32 parameters that an artifact stands for, by name."""
    return {
        name: tensor.dequantize() if isinstance(tensor, Quantized) else tensor.to(torch.float32)
        for name, tensor in compressed.items()
    }


def role_rows(
    parameters: Mapping[str, Tensor],
    compressed: Mapping[str, Quantized | Tensor],
    roles: Mapping[str, str],
    plan: Mapping[str, Grid],
    *,
    bytes_by_role: Mapping[str, int],
) -> list[RoleRow]:
    """One row a role with quantized matrices. `bytes_by_role` comes from the artifact's account."""
    members: dict[str, list[str]] = {}
    for name, tensor in compressed.items():
        if isinstance(tensor, Quantized):
            members.setdefault(str(roles[name]), []).append(name)
    rows = []
    for role, names in members.items():
        error = total = 0.0
        for name in names:
            matrix = compressed[name]
            assert isinstance(matrix, Quantized)
            weight = parameters[name].detach().to(torch.float32)
            error += float((weight - matrix.dequantize().to(weight.device)).square().sum())
            total += float(weight.square().sum())
        grid = plan[role]
        count = sum(parameters[name].numel() for name in names)
        relative = (error / total) ** 0.5 if total else 0.0
        rows.append(RoleRow(role, grid.bits, grid.describe(), count, bytes_by_role[role], relative))
    return rows
