"""One grid, or other storage, for each group of matrices: the least predicted loss that fits a byte budget.

    predicted loss increase = Σ_tensor sensitivity · ‖W - quantized W‖²
    predicted bytes         = what the coder's model gives for integers and scales, and a constant a tensor

Groups are roles, or the part of a role in one part of the depth. Both predictions are sums over groups, so
the best combination is found exactly: groups are joined one at a time, keeping every pair (bytes, loss) that
no other pair beats in both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bytegolf.compression.costs import Cost, GridCosts, Group
from bytegolf.compression.storage import Storage
from bytegolf.model.roles import Role
from bytegolf.tree import from_json, to_json

#: The storage of each role, and of those parameters, by name, that are stored otherwise than their role.
Plan = dict[str, Storage]

#: Pairs kept while joining groups. Beyond it, of pairs that differ by less than 1/4000 of the budget the one
#: with the least loss stays.
_FRONT = 4000


@dataclass(frozen=True, slots=True)
class FittedPlan:
    """The chosen grids, and what they should cost.

    `total_bytes` includes the fixed bytes. If even the smallest combination misses the budget, `fits` is
    False, `grids` is that combination, `miss_bytes` says by how much, and `remedy` what would fit.
    """

    grids: Plan
    total_bytes: int
    loss_increase: float
    fits: bool
    miss_bytes: int
    remedy: str


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Plain data for a plan, by role or name."""
    return {key: to_json(storage) for key, storage in plan.items()}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan of `plan_to_json`. Raises `RecipeError` if a storage cannot be read."""
    return {key: from_json(Storage, storage, f"plan.{key}") for key, storage in data.items()}


def is_matrix(tensor: Tensor, role: str, passthrough_elements: int) -> bool:
    """Whether a parameter goes on a grid: two dimensions, enough weights, and neither scalar nor gate."""
    return (
        tensor.dim() == 2 and tensor.numel() >= passthrough_elements and role not in (Role.SCALAR, Role.GATE)
    )


def fit(costs: GridCosts, *, budget_bytes: int, fixed_bytes: int) -> FittedPlan:
    """The grid of each group that minimizes predicted loss within `budget_bytes`.

    `fixed_bytes` is all else in the file: header, tokenizer, pass-through tensors, checksum.
    """
    room = budget_bytes - fixed_bytes
    groups = costs.groups
    best = _least_loss([group.costs for group in groups], room)
    if best is None:
        best = tuple(min(range(len(group.costs)), key=lambda i: group.costs[i].size) for group in groups)
    chosen = [group.costs[i] for group, i in zip(groups, best, strict=True)]
    total = fixed_bytes + math.ceil(sum(cost.size for cost in chosen))
    miss = max(0, total - budget_bytes)
    sizes: dict[str, float] = {}
    for group, cost in zip(groups, chosen, strict=True):
        sizes[group.role] = sizes.get(group.role, 0.0) + cost.size
    return FittedPlan(
        grids=_by_role(groups, [costs.choices[i] for i in best]),
        total_bytes=total,
        loss_increase=sum(cost.loss for cost in chosen),
        fits=miss == 0,
        miss_bytes=miss,
        remedy=_remedy(sizes, fixed_bytes, budget_bytes) if miss else "",
    )


def _by_role(groups: Sequence[Group], storages: Sequence[Storage]) -> Plan:
    """A role's storage is that of most of its matrices; the others stand by their names."""
    counts: dict[str, dict[Storage, int]] = {}
    for group, storage in zip(groups, storages, strict=True):
        of_role = counts.setdefault(group.role, {})
        of_role[storage] = of_role.get(storage, 0) + len(group.names)
    plan: Plan = {role: max(of_role, key=of_role.__getitem__) for role, of_role in counts.items()}
    for group, storage in zip(groups, storages, strict=True):
        if storage != plan[group.role]:
            plan |= dict.fromkeys(group.names, storage)
    return plan


_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


def _least_loss(rows: Sequence[Sequence[Cost]], room: float) -> tuple[int, ...] | None:
    """The index into each row with the least total loss whose total size is within `room`, or None."""
    sizes, losses = np.zeros(1), np.zeros(1)
    origins: list[tuple[_Ints, int]] = []
    for done, row in enumerate(rows, start=1):
        # What the groups still to come need at least cannot be spent before them.
        reserve = sum(min(cost.size for cost in later) for later in rows[done:])
        all_sizes = (sizes[:, None] + np.array([cost.size for cost in row])).reshape(-1)
        all_losses = (losses[:, None] + np.array([cost.loss for cost in row])).reshape(-1)
        kept = _front(all_sizes, all_losses, np.flatnonzero(all_sizes + reserve <= room), room)
        if not len(kept):
            return None
        sizes, losses = all_sizes[kept], all_losses[kept]
        origins.append((kept, len(row)))
    place = int(losses.argmin())
    indices = []
    for kept, choices in reversed(origins):
        place, choice = divmod(int(kept[place]), choices)
        indices.append(choice)
    return tuple(reversed(indices))


def _front(sizes: _Floats, losses: _Floats, fitting: _Ints, room: float) -> _Ints:
    """Which of the `fitting` pairs no other beats, by size; of too many, the least loss in each stretch of
    bytes, and the smallest, so that what fitted still fits.
    """
    order = fitting[np.lexsort((losses[fitting], sizes[fitting]))]
    least = np.minimum.accumulate(losses[order])
    kept = order[np.concatenate([[True], losses[order][1:] < least[:-1]])] if len(order) else order
    if len(kept) <= _FRONT:
        return kept
    stretch = (sizes[kept] / (room / _FRONT)).astype(np.int64)
    last = np.concatenate([stretch[1:] != stretch[:-1], [True]])
    last[0] = True
    return kept[last]


def _remedy(sizes: Mapping[str, float], fixed_bytes: int, budget_bytes: int) -> str:
    matrices = sum(sizes.values())
    smallest = math.ceil(fixed_bytes + matrices)
    room = budget_bytes - fixed_bytes
    if room <= 0:
        return (
            f"header, tokenizer and small tensors alone take {fixed_bytes} bytes; "
            f"raise the budget above {smallest} bytes or use a smaller vocabulary"
        )
    text = (
        f"raise the budget to {smallest} bytes, or reduce the width to about {math.sqrt(room / matrices):.0%}"
    )
    tables = (Role.EMBEDDING, Role.HEAD, Role.VALUE_EMBEDDING)
    vocabulary = sum(sizes.get(role, 0.0) for role in tables)
    if vocabulary > matrices - room:
        text += f", or the vocabulary to about {1 - (matrices - room) / vocabulary:.0%}"
    return text
