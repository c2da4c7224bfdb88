"""One grid, or other storage, for each role: the least predicted loss that fits a budget of bytes.

    predicted loss increase = Σ_tensor sensitivity · ‖W - quantized W‖²
    predicted bytes         = what the coder's model gives for integers and scales, and a constant a tensor

Both are sums over roles, so the best combination is found exactly: roles are joined one at a time, keeping
every pair (bytes, loss) that no other pair beats in both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bytegolf.compression.costs import Cost, GridCosts
from bytegolf.compression.storage import Storage
from bytegolf.model.roles import Role
from bytegolf.tree import from_json, to_json

Plan = dict[str, Storage]

#: Pairs kept while joining roles. Beyond it, of pairs that differ by less than 1/4000 of the budget the one
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
    """Plain data for a plan, by role."""
    return {role: to_json(storage) for role, storage in plan.items()}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan of `plan_to_json`. Raises `RecipeError` if a storage cannot be read."""
    return {role: from_json(Storage, storage, f"plan.{role}") for role, storage in data.items()}


def is_matrix(tensor: Tensor, role: str, passthrough_elements: int) -> bool:
    """Whether a parameter goes on a grid: two dimensions, enough weights, and not of role scalar."""
    return tensor.dim() == 2 and tensor.numel() >= passthrough_elements and role != Role.SCALAR


def fit(costs: GridCosts, *, budget_bytes: int, fixed_bytes: int) -> FittedPlan:
    """The grid of each role that minimizes predicted loss within `budget_bytes`.

    `fixed_bytes` is all else in the file: header, tokenizer, pass-through tensors, checksum.
    """
    room = budget_bytes - fixed_bytes
    rows = costs.roles
    best = _least_loss(list(rows.values()), room)
    if best is None:
        best = tuple(min(range(len(row)), key=lambda i: row[i].size) for row in rows.values())
    chosen = {role: row[i] for (role, row), i in zip(rows.items(), best, strict=True)}
    matrices = sum(cost.size for cost in chosen.values())
    total = fixed_bytes + math.ceil(matrices)
    miss = max(0, total - budget_bytes)
    sizes = {role: cost.size for role, cost in chosen.items()}
    return FittedPlan(
        grids={role: costs.choices[i] for role, i in zip(rows, best, strict=True)},
        total_bytes=total,
        loss_increase=sum(cost.loss for cost in chosen.values()),
        fits=miss == 0,
        miss_bytes=miss,
        remedy=_remedy(sizes, fixed_bytes, budget_bytes) if miss else "",
    )


def _least_loss(rows: Sequence[Sequence[Cost]], room: float) -> tuple[int, ...] | None:
    """The index into each row with the least total loss whose total size is within `room`, or None."""
    front = [(0.0, 0.0, ())]
    for done, row in enumerate(rows, start=1):
        # What the roles still to come need at least cannot be spent before them.
        reserve = sum(min(cost.size for cost in later) for later in rows[done:])
        joined = [
            (size + cost.size, loss + cost.loss, (*indices, i))
            for size, loss, indices in front
            for i, cost in enumerate(row)
            if size + cost.size + reserve <= room
        ]
        front = _undominated(sorted(joined))
        if len(front) > _FRONT:
            front = _thinned(front, room / _FRONT)
    return min(front, key=lambda entry: entry[1])[2] if front else None


_Entry = tuple[float, float, tuple[int, ...]]


def _undominated(entries: Sequence[_Entry]) -> list[_Entry]:
    """Of entries sorted by size, those with less loss than every smaller one."""
    kept: list[_Entry] = []
    for entry in entries:
        if not kept or entry[1] < kept[-1][1]:
            kept.append(entry)
    return kept


def _thinned(front: Sequence[_Entry], width: float) -> list[_Entry]:
    """The least loss within each `width` of bytes; the smallest entry stays, so what fitted still fits."""
    kept = {int(size / width): (size, loss, indices) for size, loss, indices in front}
    return sorted({front[0], *kept.values()})


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
