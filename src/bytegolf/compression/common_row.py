"""Rows that are nearly one and the same, stored as small differences from it.

R rows, C columns. Tokens that never occur in training (most single-byte pieces) get the same gradients from
a tied embedding's softmax and end as one common row plus the noise they started from. Their mean goes
in front of the matrix as row 0, and each of them becomes its difference from it, wrapped around modulo the
grid's 2q + 1 levels so that it stays on the grid.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bytegolf.compression.clusters import directions

Int8s = npt.NDArray[np.int8]

#: Rows that are tried as the common one, evenly spaced; how alike rows must be; how many make it worth it.
_CANDIDATES = 128
_LEAST_COSINE = 0.7
_LEAST_MEMBERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class CommonRow:
    """`members_R` says which rows are differences; `ints_RC` (R + 1, C) has the common row in front."""

    members_R: npt.NDArray[np.bool_]
    ints_RC: Int8s


def split_common_row(ints_RC: Int8s, limit: int) -> CommonRow | None:
    """The matrix with its largest group of like rows taken apart, or None if it has no such group."""
    values_RC = ints_RC.astype(np.float32)
    unit_RC = directions(ints_RC)
    candidates = unit_RC[:: max(1, len(unit_RC) // _CANDIDATES)]
    alike = unit_RC @ candidates.T > _LEAST_COSINE
    group_R = alike[:, alike.sum(axis=0).argmax()]
    if group_R.sum() < _LEAST_MEMBERS:
        return None
    common_C = np.round(values_RC[group_R].mean(axis=0))
    rest_R = np.abs(values_RC - common_C).sum(axis=1)
    members_R = rest_R < _LEAST_COSINE * np.abs(values_RC).sum(axis=1)
    if members_R.sum() < _LEAST_MEMBERS:
        return None
    taken_RC = np.where(members_R[:, None], ints_RC - common_C.astype(np.int16), ints_RC)
    rows = np.concatenate([common_C[None].astype(np.int8), _wrapped(taken_RC, limit)])
    return CommonRow(members_R, rows)


def join_common_row(common: CommonRow, limit: int) -> Int8s:
    """The matrix (R, C) that `split_common_row` took apart."""
    first_C, rest_RC = common.ints_RC[0].astype(np.int16), common.ints_RC[1:]
    return _wrapped(np.where(common.members_R[:, None], rest_RC + first_C, rest_RC), limit)


def _wrapped(values_RC: npt.NDArray[np.int16], limit: int) -> Int8s:
    return ((values_RC.astype(np.int16) + limit) % (2 * limit + 1) - limit).astype(np.int8)
