"""Integers through a range coder under the models of `compression.context`.

R rows, C columns. Data come from strangers: a decoder allocates no more than the asked-for shape and answers
anything else with `ArtifactError`.
"""

from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from bytegolf.compression.context import (
    ClusteredModel,
    ContextModel,
    clusters_allowed,
    coded_blocks,
    row_blocks,
)
from bytegolf.errors import ArtifactError

Int8s = npt.NDArray[np.int8]

# The wheel has no type stubs for its submodules.
_stream: Any = constriction.stream  # pyrefly: ignore[missing-attribute]


def encode(ints_RC: Int8s, limit: int) -> bytes:
    """The integers (R, C) within ±limit under a `ContextModel`."""
    return _encode(ints_RC, ContextModel(ints_RC.shape[1], limit), None)


def decode(payload: bytes, rows: int, columns: int, limit: int) -> Int8s:
    """The integers (R, C) of `encode`. Raises `ArtifactError` if the payload is not such a code."""
    return _decode(payload, rows, columns, ContextModel(columns, limit))


def encode_clustered(ints_RC: Int8s, limit: int, clusters_R: npt.NDArray[np.int64]) -> bytes:
    """The number of clusters, a byte, then clusters and integers (R, C) under a `ClusteredModel`."""
    clusters = int(clusters_R.max()) + 1
    assert clusters <= clusters_allowed(len(ints_RC))
    model = ClusteredModel(ints_RC.shape[1], limit, clusters)
    return bytes([clusters]) + _encode(ints_RC, model, clusters_R)


def decode_clustered(payload: bytes, rows: int, columns: int, limit: int) -> Int8s:
    """The integers (R, C) of `encode_clustered`. Raises `ArtifactError` if the payload is not such a code."""
    clusters = payload[0] if payload else 0
    if not 1 <= clusters <= clusters_allowed(rows):
        raise ArtifactError(f"{clusters} clusters of {rows} rows; 1 to {clusters_allowed(rows)} are allowed")
    return _decode(payload[1:], rows, columns, ClusteredModel(columns, limit, clusters))


def _encode(
    ints_RC: Int8s, model: ContextModel | ClusteredModel, clusters_R: npt.NDArray[np.int64] | None
) -> bytes:
    coder = _stream.queue.RangeEncoder()
    by_class_KS = model.counts.by_class_KS
    for block in coded_blocks(ints_RC, model, clusters_R):
        for values_R, counts in block.facts:
            # A single symbol says nothing, and the library has no model for it.
            if len(counts) > 1:
                coder.encode(values_R.astype(np.int32), _categorical(counts))
        order, sizes = _by_class(block.classes_RC, len(by_class_KS))
        symbols = (block.values_RC.reshape(-1)[order] + model.limit).astype(np.int32)
        position = 0
        for k in np.flatnonzero(sizes):
            coder.encode(symbols[position : position + sizes[k]], _categorical(by_class_KS[k]))
            position += sizes[k]
    return coder.get_compressed().astype("<u4").tobytes()


def _decode(payload: bytes, rows: int, columns: int, model: ContextModel | ClusteredModel) -> Int8s:
    if len(payload) % 4:
        raise ArtifactError("a range-coded stream is not a whole number of words")
    words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
    coder = _stream.queue.RangeDecoder(words)
    ints_RC = np.empty((rows, columns), dtype=np.int8)
    by_class_KS = model.counts.by_class_KS
    try:
        for start, stop in row_blocks(rows, columns):
            facts = [_decode_fact(coder, counts, stop - start) for counts in model.row_tables]
            classes_RC, flipped_RC = model.classes(facts)
            order, sizes = _by_class(classes_RC, len(by_class_KS))
            symbols = np.empty(order.size, dtype=np.int64)
            position = 0
            for k in np.flatnonzero(sizes):
                decoded = coder.decode(_categorical(by_class_KS[k]), int(sizes[k]))
                symbols[order[position : position + sizes[k]]] = decoded
                position += sizes[k]
            values_RC = symbols.reshape(stop - start, columns) - model.limit
            block_RC = values_RC if flipped_RC is None else np.where(flipped_RC, -values_RC, values_RC)
            ints_RC[start:stop] = block_RC
            model.update(block_RC, facts, model.counts.seen(values_RC, classes_RC))
    except (AssertionError, ValueError) as error:
        raise ArtifactError("a range-coded stream is damaged") from error
    if not coder.maybe_exhausted():
        raise ArtifactError("a range-coded stream is longer than its integers")
    return ints_RC


def _decode_fact(coder: Any, counts: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    if len(counts) == 1:
        return np.zeros(rows, dtype=np.int64)
    return coder.decode(_categorical(counts), rows).astype(np.int64)


def _by_class(
    classes_RC: npt.NDArray[np.uint16], classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of a block's integers sorted by class, row-major within a class; and each class's size."""
    flat = classes_RC.reshape(-1)
    return np.argsort(flat, kind="stable"), np.bincount(flat, minlength=classes)


def _categorical(counts: npt.NDArray[np.int64]) -> Any:
    return _stream.model.Categorical(counts.astype(np.float64), perfect=False)
