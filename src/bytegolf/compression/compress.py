"""A trained model's parameters to what an artifact stores, and the table that reports show of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.compression.gptq import Gptq, gptq_quantize_alike
from bytegolf.compression.grid import Grid, Quantized
from bytegolf.compression.plan import is_matrix
from bytegolf.compression.pruning import prune_smallest
from bytegolf.compression.storage import Storage, Stored, dequantized
from bytegolf.errors import RecipeError
from bytegolf.model.roles import Role

#: Entries of the Hessians that are factored at once, some 4 GB with all that it takes.
_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True)
class RoleRow:
    """What became of one role's matrices. `relative_error` is ‖W - quantized W‖ / ‖W‖ over all of them.

    Where layers differ, `bits` are those of the finest, and `clip` names the storage of each part.
    """

    role: str
    bits: int
    clip: str
    parameters: int
    bytes: int
    relative_error: float


def storage_of(
    name: str, tensor: Tensor, role: str, plan: Mapping[str, Storage], *, passthrough_elements: int
) -> Storage | None:
    """How one parameter is stored, or None if as plain floats: the one rule for training and export.

    Raises `RecipeError` if a matrix has a role that the plan lacks.
    """
    if role == Role.GATE and tensor.dim() == 2:
        return plan.get(role)
    if not is_matrix(tensor, role, passthrough_elements):
        return None
    if role not in plan:
        raise RecipeError(f"{name} has role {role}, for which the plan has no grid; add one")
    return plan.get(name, plan[role])


def compress_model(
    parameters: Mapping[str, Tensor],
    roles: Mapping[str, str],
    plan: Mapping[str, Storage],
    *,
    passthrough_elements: int = 4096,
    prune: float = 0.0,
    hessians: Mapping[str, Tensor] | None = None,
    gptq: Gptq | None = None,
) -> dict[str, Stored]:
    """Every parameter as stored, or as it is (detached, float32) where `storage_of` gives nothing.

    Of each matrix the share `prune` of its smallest weights becomes zero first. With `gptq`, matrices on
    integer grids that have a Hessian among `hessians` (by their names) are rounded by it, where it lies.
    """
    storages = {
        name: storage_of(name, tensor, str(roles[name]), plan, passthrough_elements=passthrough_elements)
        for name, tensor in parameters.items()
    }
    weights = {
        name: prune_smallest(parameters[name].detach(), prune)
        for name, storage in storages.items()
        if storage is not None
    }
    rounded = {} if gptq is None else _rounded_by_hessians(weights, storages, hessians or {}, gptq)
    compressed: dict[str, Stored] = {}
    for name, tensor in parameters.items():
        storage = storages[name]
        if storage is None:
            compressed[name] = tensor.detach().to(torch.float32)
        else:
            compressed[name] = rounded[name] if name in rounded else storage.quantize(weights[name])
    return compressed


def _rounded_by_hessians(
    weights: Mapping[str, Tensor],
    storages: Mapping[str, Storage | None],
    hessians: Mapping[str, Tensor],
    gptq: Gptq,
) -> dict[str, Quantized]:
    """The matrices on integer grids that have a Hessian; those of one shape and grid together."""
    alike: dict[tuple[Grid, torch.Size, int], list[str]] = {}
    seen: dict[tuple[Grid, torch.Size], int] = {}
    for name, weight in weights.items():
        storage = storages[name]
        if not isinstance(storage, Grid) or name not in hessians:
            continue
        place = seen[storage, weight.shape] = seen.get((storage, weight.shape), -1) + 1
        # A processor is busy with a single one, and its caches hold no more.
        at_once = 1 if hessians[name].device.type == "cpu" else max(1, _AT_ONCE // hessians[name].numel())
        alike.setdefault((storage, weight.shape, place // at_once), []).append(name)
    rounded: dict[str, Quantized] = {}
    for (grid, *_), names in alike.items():
        found = gptq_quantize_alike(
            [weights[name] for name in names], [hessians[name] for name in names], grid, gptq
        )
        rounded.update(zip(names, found, strict=True))
    return rounded


def role_rows(
    parameters: Mapping[str, Tensor],
    compressed: Mapping[str, Stored],
    roles: Mapping[str, str],
    plan: Mapping[str, Storage],
    *,
    bytes_by_role: Mapping[str, int],
    passthrough_elements: int = 4096,
) -> list[RoleRow]:
    """One row a role with matrices of the plan. `bytes_by_role` comes from the artifact's account."""
    members: dict[str, list[str]] = {}
    storages: dict[str, list[Storage]] = {}
    for name, tensor in parameters.items():
        role = str(roles[name])
        storage = storage_of(name, tensor, role, plan, passthrough_elements=passthrough_elements)
        if storage is not None:
            members.setdefault(role, []).append(name)
            storages.setdefault(role, []).append(storage)
    rows = []
    for role, names in members.items():
        error = total = 0.0
        for name in names:
            weight = parameters[name].detach().to(torch.float32)
            error += float((weight - dequantized(compressed[name]).to(weight.device)).square().sum())
            total += float(weight.square().sum())
        bits = max(storage.bits for storage in storages[role])
        clip = "; ".join(dict.fromkeys(storage.describe() for storage in storages[role]))
        count = sum(parameters[name].numel() for name in names)
        relative = (error / total) ** 0.5 if total else 0.0
        rows.append(RoleRow(role, bits, clip, count, bytes_by_role[role], relative))
    return rows
