"""Range-coded integers in clusters come back, cost what was estimated, and bad data are refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bytegolf.artifact import coding, ranges
from bytegolf.artifact.coding import Method
from bytegolf.compression.clusters import cluster_rows
from bytegolf.compression.context import MOST_CLUSTERS, clusters_allowed, code_bits
from bytegolf.errors import ArtifactError

FROZEN = "c7dd70743097980bba54e42bc99c7df484b0f39458383943ce9e88bbc91c6ae2"


def _embedding(rows: int, columns: int, limit: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.normal(size=(12, columns)) * np.exp(random.normal(size=columns) / 2)
    values = centres[random.integers(12, size=rows)] + 0.6 * random.normal(size=(rows, columns))
    return np.clip(np.round(values * limit / 5), -limit, limit).astype(np.int8)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 7, 64, 130, 200]),
    columns=st.integers(1, 9),
    bits=st.integers(2, 8),
    data=st.data(),
)
def test_any_integers_in_any_clusters_come_back(rows: int, columns: int, bits: int, data) -> None:
    limit = 2 ** (bits - 1) - 1
    ints = data.draw(arrays.arrays(np.int8, (rows, columns), elements=st.integers(-limit, limit)))
    most = clusters_allowed(rows) - 1
    clusters = data.draw(arrays.arrays(np.int64, rows, elements=st.integers(0, most)))
    payload = ranges.encode_clustered(ints, limit, clusters)
    assert np.array_equal(ranges.decode_clustered(payload, rows, columns, limit), ints)


@pytest.mark.parametrize("limit", [1, 7, 127])
def test_clusters_cost_what_was_estimated_and_less_than_none(limit: int) -> None:
    ints = _embedding(2000, 96, limit)
    clusters = cluster_rows(ints)
    assert clusters is not None
    payload = ranges.encode_clustered(ints, limit, clusters)
    assert len(payload) * 8 == pytest.approx(code_bits(ints, limit, clusters), rel=0.002)
    assert len(payload) < 0.93 * len(ranges.encode(ints, limit))
    assert coding.encode_ints(ints, limit)[0] == Method.CLUSTERED


def test_rows_without_likeness_are_not_clustered() -> None:
    noise = np.random.default_rng(0).integers(-7, 8, (1000, 64)).astype(np.int8)
    assert cluster_rows(noise) is None
    assert cluster_rows(_embedding(127, 32, 7)) is None


def test_equal_rows_leave_no_cluster_empty() -> None:
    rows = np.tile(_embedding(3, 32, 7), (200, 1))
    clusters = cluster_rows(rows)
    assert clusters is not None
    assert np.array_equal(np.unique(clusters), np.arange(clusters.max() + 1))


def test_the_format_of_clusters_is_frozen() -> None:
    """Old files must stay readable: the model's arithmetic must not change."""
    ints = ((np.arange(200 * 16).reshape(200, 16) * 7919) % 31 - 15).astype(np.int8)
    payload = ranges.encode_clustered(ints, 15, np.arange(200) % 3)
    assert hashlib.sha256(payload).hexdigest() == FROZEN
    assert np.array_equal(ranges.decode_clustered(payload, 200, 16, 15), ints)


@pytest.mark.parametrize(
    ("rows", "allowed"), [(1, 1), (127, 1), (128, 2), (4096, 64), (10**6, MOST_CLUSTERS)]
)
def test_clusters_are_few_beside_the_rows_so_that_their_means_take_little_memory(
    rows: int, allowed: int
) -> None:
    assert clusters_allowed(rows) == allowed
    for clusters in (0, allowed + 1, 255):
        with pytest.raises(ArtifactError, match=f"{clusters} clusters"):
            ranges.decode_clustered(bytes([clusters]), rows, 1, 7)


def test_noise_in_clusters_decodes_to_the_grid_or_is_refused() -> None:
    random = np.random.default_rng(0)
    for _ in range(80):
        data = bytes([3]) + random.bytes(4 * int(random.integers(0, 60)))
        try:
            ints = ranges.decode_clustered(data, 200, 5, 7)
        except ArtifactError:
            continue
        assert np.abs(ints).max() <= 7
