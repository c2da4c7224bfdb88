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

import numpy as np
import torch
from torch import Tensor

from bytegolf.compression.arrangement import arrangements
from bytegolf.compression.context import SCALE_LIMIT, SCALE_ROW, code_bits, scale_steps
from bytegolf.compression.grid import Grid, Quantized
from bytegolf.compression.storage import Storage, Stored, dequantized
from bytegolf.errors import RecipeError
from bytegolf.model.roles import Role
from bytegolf.tree import from_json, to_json

Plan = dict[str, Storage]

#: Stream tags, word rounding, and the tensor's line in the compressed header.
TENSOR_OVERHEAD_BYTES = 32
#: Pairs kept while joining roles. Beyond it, of pairs that differ by less than 1/4000 of the budget the one
#: with the least loss stays.
_FRONT = 4000
#: Weights of a matrix that are looked at for each grid; the coder's model has settled by then.
_SAMPLED_WEIGHTS = 1 << 17
#: Smaller matrices are asked of the coder's model on every grid; scales count for more in them.
_LEAST_FOR_ENTROPY = 1 << 16


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


@dataclass(frozen=True, slots=True)
class _Measured:
    """One matrix on one grid: bytes, and squared error summed over its weights."""

    size: float
    error: float


@dataclass(frozen=True, slots=True)
class _Cost:
    """One role on one grid: bytes, and predicted loss increase."""

    size: float
    loss: float


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Plain data for a plan, by role."""
    return {role: to_json(storage) for role, storage in plan.items()}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan of `plan_to_json`. Raises `RecipeError` if a storage cannot be read."""
    return {role: from_json(Storage, storage, f"plan.{role}") for role, storage in data.items()}


def is_matrix(tensor: Tensor, role: str, passthrough_elements: int) -> bool:
    """Whether a parameter goes on a grid: two dimensions, enough weights, and not of role scalar."""
    return tensor.dim() == 2 and tensor.numel() >= passthrough_elements and role != Role.SCALAR


def estimate_bytes(stored: Stored) -> float:
    """Bytes that a stored matrix takes in an artifact, within 1 % from about 10 kB on."""
    bits = _integer_bits(stored) if isinstance(stored, Quantized) else _float_bits(stored)
    return bits / 8 + TENSOR_OVERHEAD_BYTES


def _integer_bits(matrix: Quantized) -> float:
    ints_RC = matrix.ints.detach().cpu().numpy()
    scales = matrix.scales.detach().cpu().numpy()
    grouped = scales.ndim == 2 and scales.shape[1] > 1
    bits = min(arrangement.bits for arrangement in arrangements(ints_RC, matrix.limit))
    if matrix.bits == 1:
        bits = min(bits, float(ints_RC.size))
    split = scale_steps(scales.reshape(-1), scales.shape[1] if grouped else SCALE_ROW)
    return bits + (16 * scales.size if split is None else code_bits(split[1], SCALE_LIMIT))


def _float_bits(values: Tensor) -> float:
    """Eight-bit floats go through the coder's model in the order of their values.

    Of longer ones, the entropy of each byte by its place: what a byte-wise coder makes of shuffled floats.
    """
    rows = len(values)
    planes = (
        values.detach().cpu().contiguous().view(torch.uint8).reshape(rows, -1, values.element_size()).numpy()
    )
    if planes.shape[2] == 1:
        patterns_RC = planes[:, :, 0]
        magnitude_RC = (patterns_RC & 127).astype(np.int8)
        return code_bits(np.where(patterns_RC > 127, ~magnitude_RC, magnitude_RC), 127)
    bits = 0.0
    for plane in planes.reshape(-1, planes.shape[2]).T:
        counts = np.bincount(plane, minlength=256)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / len(plane))).sum())
    return bits


def relative_sensitivities(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """1 / ‖W‖² for each tensor, for want of measured ones: equal relative errors then hurt equally."""
    return {name: 1.0 / max(float(tensor.detach().square().sum()), 1e-30) for name, tensor in tensors.items()}


@dataclass(frozen=True, slots=True)
class GridCosts:
    """What each grid of `choices` costs each role: bytes, and predicted loss increase."""

    choices: tuple[Storage, ...]
    roles: dict[str, list[_Cost]]


def grid_costs(
    tensors: Mapping[str, Tensor],
    roles: Mapping[str, str],
    sensitivities: Mapping[str, float],
    choices: Sequence[Storage],
) -> GridCosts:
    """Every matrix on every grid: for large networks the slow part of fitting, needed once for any budget.

    `tensors` are the matrices to quantize (see `is_matrix`), `roles` and `sensitivities` have their names.
    A tensor that stands under several names is measured once.
    """
    if not choices:
        raise RecipeError("no grid to choose from; give one or more")
    names: dict[str, list[str]] = {}
    for name in tensors:
        names.setdefault(str(roles[name]), []).append(name)
    distinct = {id(tensor): tensor for tensor in tensors.values()}
    measured = {
        (key, grid): found
        for key, tensor in distinct.items()
        for grid, found in zip(choices, _measures(tensor, choices), strict=True)
    }
    costs = {
        role: [
            _Cost(
                size=sum(measured[id(tensors[name]), grid].size for name in members),
                loss=sum(sensitivities[name] * measured[id(tensors[name]), grid].error for name in members),
            )
            for grid in choices
        ]
        for role, members in names.items()
    }
    return GridCosts(tuple(choices), costs)


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


def _measures(tensor: Tensor, choices: Sequence[Storage]) -> list[_Measured]:
    """One matrix on every grid.

    The coder's model takes most of the time. Of a large matrix it is asked on two grids alone, the finest and
    the coarsest: in between, its size over the entropy of the integers goes evenly from one to the other, to
    0.3 % on trained weights.
    """
    sampled = _sampled_rows(tensor)
    share = sampled.shape[0] / tensor.shape[0]
    stored = [storage.quantize(sampled) for storage in choices]
    known: dict[int, float] = {}
    if sampled.numel() >= _LEAST_FOR_ENTROPY:
        entropies = {
            i: _entropy_bytes(matrix) / share
            for i, matrix in enumerate(stored)
            if isinstance(matrix, Quantized) and isinstance(choices[i], Grid)
        }
        known = _sizes_by_entropy(tensor, choices, entropies)
    measured = []
    for i, matrix in enumerate(stored):
        size = known[i] if i in known else _coded_bytes(matrix) / share
        error = float((sampled.detach().float() - dequantized(matrix)).square().sum())
        measured.append(_Measured(size + TENSOR_OVERHEAD_BYTES, error / share))
    return measured


def _sizes_by_entropy(
    tensor: Tensor, choices: Sequence[Storage], entropies: Mapping[int, float]
) -> dict[int, float]:
    """Coded bytes of the whole matrix on the grids whose entropy is known; nothing for fewer than three."""
    if len(entropies) < 3:
        return {}
    least, most = min(entropies, key=entropies.__getitem__), max(entropies, key=entropies.__getitem__)
    # The whole matrix, because alike rows are found only where all of them are looked at.
    ends = [_coded_bytes(choices[i].quantize(tensor)) / entropies[i] for i in (least, most)]
    return {
        i: size * float(np.interp(size, (entropies[least], entropies[most]), ends))
        for i, size in entropies.items()
    }


def _coded_bytes(matrix: Stored) -> float:
    return estimate_bytes(matrix) - TENSOR_OVERHEAD_BYTES


def _entropy_bytes(matrix: Quantized) -> float:
    """Bytes of the integers if each were coded by how often its value occurs in the whole matrix."""
    counts = torch.bincount(matrix.ints.flatten().to(torch.int64) + matrix.limit).double()
    shares = counts[counts > 0] / counts.sum()
    # Never 0: a matrix of one value still has scales.
    return max(1.0, float(-(shares * shares.log2()).sum()) * matrix.ints.numel() / 8)


def _sampled_rows(tensor: Tensor) -> Tensor:
    """Every n-th row of a large matrix: a plan is often fitted while the clock of a training runs."""
    step = -(-tensor.numel() // _SAMPLED_WEIGHTS)
    return tensor[::step] if step > 1 else tensor


def _least_loss(rows: Sequence[Sequence[_Cost]], room: float) -> tuple[int, ...] | None:
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
