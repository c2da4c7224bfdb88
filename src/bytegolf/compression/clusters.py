"""Rows of a matrix that resemble one another, found by k-means.

R rows, C columns, G clusters. Only the encoder runs this: the file says which cluster each row is in, and the
decoder learns from the rows what a cluster looks like (`context.ClusteredModel`). So this may be arithmetic
in floating point.
"""

import numpy as np
import numpy.typing as npt

from bytegolf.compression.context import clusters_allowed

_ROUNDS = 8
#: Rows that are compared with each other first, and how many times the chance value (about 3 / sqrt(C) for
#: some hundred rows) a row's cosine with its nearest must have for clusters to be worth looking for.
_SAMPLE, _LEAST_COSINES = 512, 4.0


def cluster_rows(ints_RC: npt.NDArray[np.int8]) -> npt.NDArray[np.int64] | None:
    """The cluster (R,) of each row by its direction, or None if rows don't resemble one another.

    Lloyd 1982, from rows drawn by a fixed seed, distances between rows of length 1.
    """
    rows = len(ints_RC)
    clusters = clusters_allowed(rows)
    if clusters == 1 or not _alike(directions(ints_RC[:: -(-rows // _SAMPLE)])):
        return None
    unit_RC = directions(ints_RC)
    centres_GC = unit_RC[np.random.default_rng(0).choice(rows, clusters, replace=False)]
    for _ in range(_ROUNDS):
        nearest_R = _nearest(unit_RC, centres_GC)
        members_GR = (nearest_R == np.arange(clusters)[:, None]).astype(np.float32)
        centres_GC = members_GR @ unit_RC / np.maximum(members_GR.sum(axis=1), 1)[:, None]
    # Numbered without gaps, since a cluster that lost all its rows would still cost memory.
    return np.unique(_nearest(unit_RC, centres_GC), return_inverse=True)[1].astype(np.int64)


def directions(ints_RC: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """The rows at length 1; rows of zeros stay zero."""
    values_RC = ints_RC.astype(np.float32)
    lengths_R = np.sqrt(np.square(values_RC).sum(axis=1))
    return values_RC / np.maximum(lengths_R, 1e-6)[:, None]


def _alike(unit_RC: npt.NDArray[np.float32]) -> bool:
    cosines = unit_RC @ unit_RC.T
    np.fill_diagonal(cosines, -1)
    return float(np.median(cosines.max(axis=1))) * np.sqrt(unit_RC.shape[1]) > _LEAST_COSINES


def _nearest(unit_RC: npt.NDArray[np.float32], centres_GC: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return (unit_RC @ centres_GC.T - np.square(centres_GC).sum(axis=1) / 2).argmax(axis=1)
