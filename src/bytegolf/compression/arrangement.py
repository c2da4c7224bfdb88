"""The forms in which a matrix of integers can be handed to the coder's model, and what each should take.

R rows, C columns. The plan's estimates and the coder choose by the same list, so they cannot disagree on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bytegolf.compression.clusters import cluster_rows
from bytegolf.compression.common_row import CommonRow, split_common_row
from bytegolf.compression.context import code_bits


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """`ints_RC` are coded, with their rows in `clusters_R` if given, and `common` is told beside them."""

    bits: float
    ints_RC: npt.NDArray[np.int8]
    clusters_R: npt.NDArray[np.int64] | None = None
    common: CommonRow | None = None


def arrangements(ints_RC: npt.NDArray[np.int8], limit: int) -> Iterator[Arrangement]:
    """The matrix as it is, with alike rows in clusters, and both again with a common row taken out."""
    yield from _with_clusters(ints_RC, limit, None)
    common = split_common_row(ints_RC, limit)
    if common is not None:
        yield from _with_clusters(common.ints_RC, limit, common)


def _with_clusters(
    ints_RC: npt.NDArray[np.int8], limit: int, common: CommonRow | None
) -> Iterator[Arrangement]:
    members = 0 if common is None else common.members_R.size
    yield Arrangement(code_bits(ints_RC, limit) + members, ints_RC, None, common)
    clusters_R = cluster_rows(ints_RC)
    if clusters_R is not None:
        yield Arrangement(code_bits(ints_RC, limit, clusters_R) + members, ints_RC, clusters_R, common)
