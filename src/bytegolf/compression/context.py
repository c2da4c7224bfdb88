"""The probability model behind the coded integers: how likely each is, given those before it.

R rows, C columns, K classes, S = 2q + 1 symbols. Trained matrices are not identically distributed: columns
of an embedding differ in size by octaves, rows a little. So each integer is coded under the class of its
expected magnitude,

    class = 3 · log2( mean|row| · mean|column relative to its rows| ),

with one adaptive histogram a class. A row's mean goes into the stream as one small code; the columns' means
and the histograms are learned from the rows before, so no table is stored. Rows come in blocks that grow with
what has been seen (a sixteenth of it), which keeps the arithmetic in whole arrays.

`ClusteredModel` is for matrices whose rows resemble one another, as those of embeddings do. It is told each
row's cluster and learns every cluster's mean, sign included: an integer's class is then its expected
magnitude in that cluster, and how much of it the cluster's mean explains.

The same objects yield the estimated size (`code_bits`) and drive the coder, so the two cannot disagree.
All arithmetic is on integers: floating-point logarithms differ between machines, and one different class
would make a file unreadable.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf.compression.grid import SCALE_MANTISSA_BITS

Ints = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint16]

#: Fine levels an octave; levels are round(16 · log2 v).
_FINE = 16
#: Row codes are half an octave apart, from a mean magnitude of 2^-6 up to 2^8.
_ROW_STEP = 8
_LOWEST_OCTAVE = -6
ROW_CODES = 14 * _FINE // _ROW_STEP + 1
#: Classes an octave, over the same range.
_CLASSES_PER_OCTAVE = 3
CLASSES = 14 * _CLASSES_PER_OCTAVE
#: Fractional bits of row means and of relative column sums.
_ROW_BITS, _COLUMN_BITS = 12, 20
#: Rows that the start value of a column stands for; observations a symbol that the start of a histogram
#: stands for; counts an observation.
_COLUMN_PRIOR, _HISTOGRAM_PRIOR, _COUNT = 4, 8, 16
#: Most clusters, and the least rows for each on average, which bounds the memory of a decoder; rows of all
#: clusters that the start value of one stands for.
MOST_CLUSTERS, ROWS_PER_CLUSTER = 64, 64
_CLUSTER_PRIOR = 4
#: Shares, in 256ths, of the expected magnitude that a cluster's mean explains: borders between the classes
#: and the share that the start histograms of each take.
_SHARE_BORDERS = np.array([13, 26, 51, 90, 154, 205, 236], dtype=np.int64)
_SHARES = (0, 19, 38, 70, 122, 180, 220, 246)
#: A block of rows is at most this share (1/n) of the rows before it.
_GROWTH = 16
#: Blocks with fewer integers than this share of a model's cells are counted one integer after another.
_SPARSE = 0.25
#: Integers in a block, which bounds the memory of a decoder.
_BLOCK = 1 << 20
#: Scales lose the mantissa bits of float16 that are always zero, and stand in rows of 32 within ±127.
SCALE_SHIFT = 10 - SCALE_MANTISSA_BITS
SCALE_ROW, SCALE_LIMIT = 32, 127


def _power(numerator: int, denominator: int, bits: int = 0) -> int:
    """floor(2^(bits + numerator/denominator)); the denominator is a power of two."""
    value = 1 << (numerator + bits * denominator)
    for _ in range(denominator.bit_length() - 1):
        value = math.isqrt(value)
    return value


@functools.cache
def _level_borders() -> Ints:
    """Border i lies between level i and i + 1: 2^((i + 1/2) / 16)."""
    return np.array([_power(2 * i + 1, 2 * _FINE) for i in range(56 * _FINE)], dtype=np.int64)


def _level(values: Ints) -> Ints:
    """round(16 · log2 v) of integers v ≥ 1."""
    return np.searchsorted(_level_borders(), values, side="left").astype(np.int64)


@functools.cache
def _row_scales() -> Ints:
    """What one unit in a row of each code adds to its column: 2^20 / the code's mean magnitude."""
    per_octave = _FINE // _ROW_STEP
    octaves = _COLUMN_BITS - _LOWEST_OCTAVE
    return np.array(
        [_power(octaves * per_octave - code, per_octave) for code in range(ROW_CODES)], dtype=np.int64
    )


@functools.cache
def _start_counts(limit: int, share: int = 0) -> Ints:
    """Histograms (K, S) before anything is seen: Gaussians of each class's mean magnitude.

    With m = share / 256 of the magnitude explained: variance = π/2 · magnitude² · (1 - m²) + 1/12 about
    m · magnitude, weight(x) = 2^(-(x - mean)² · log2(e) / (2 · variance)), in fixed point.
    """
    decay = [_power(24 * 32 - e, 32) for e in range(24 * 32)]
    symbols = 2 * limit + 1
    prior = _HISTOGRAM_PRIOR * symbols * _COUNT
    rows = []
    for k in range(CLASSES):
        # magnitude² · 2^16 with a third of an octave taken as 21/64.
        octave, third = divmod(k, _CLASSES_PER_OCTAVE)
        square = _power(2 * 64 * (octave + _LOWEST_OCTAVE) + 2 * 21 * third, 64, bits=16)
        mean = math.isqrt(square) * share >> 8
        variance = (square * 15708 // 10000 * (65536 - share * share) >> 16) + (1 << 16) // 12
        squares_S = [(256 * x - mean) ** 2 for x in range(-limit, limit + 1)]
        exponents = [square_x * 7213 * 32 // (10000 * variance) for square_x in squares_S]
        weights = [decay[e] if e < len(decay) else 0 for e in exponents]
        total = max(1, sum(weights))
        rows.append([1 + weight * prior // total for weight in weights])
    return np.array(rows, dtype=np.int64)


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """The spans of rows that are coded under one state of the model."""
    start = 0
    while start < rows:
        stop = min(rows, start + max(1, min(start // _GROWTH, _BLOCK // columns)))
        yield start, stop
        start = stop


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Cells of a histogram and how often each was seen. A cell may stand there more than once."""

    cells_N: Ints
    times_N: Ints | int


class Counts:
    """The histograms (K, S) of a model. Their sums (K,) are kept beside them.

    Cell k · S + s is symbol s of class k. A block reaches few of the cells, which may be tens of thousands.
    """

    def __init__(self, counts_KS: Ints) -> None:
        self.by_class_KS = counts_KS
        self._sums_K = counts_KS.sum(axis=1)

    def seen(self, values_RC: Ints, classes_RC: Classes) -> Seen:
        """The cells of a block's integers."""
        symbols = self.by_class_KS.shape[1]
        cells_RC = classes_RC.astype(np.int32) * symbols + (values_RC + symbols // 2).astype(np.int32)
        cells_N = cells_RC.reshape(-1)
        if len(cells_N) < _SPARSE * self.by_class_KS.size:
            return Seen(cells_N.astype(np.int64), 1)
        times = np.bincount(cells_N, minlength=self.by_class_KS.size)
        reached_N = np.flatnonzero(times)
        return Seen(reached_N, times[reached_N])

    def add(self, seen: Seen) -> None:
        """Counts what was seen."""
        np.add.at(self.by_class_KS.reshape(-1), seen.cells_N, seen.times_N * _COUNT)
        np.add.at(self._sums_K, seen.cells_N // self.by_class_KS.shape[1], seen.times_N * _COUNT)

    def bits(self, seen: Seen) -> float:
        """What coding it takes."""
        sums_N = self._sums_K[seen.cells_N // self.by_class_KS.shape[1]]
        counts_N = self.by_class_KS.reshape(-1)[seen.cells_N]
        return float((seen.times_N * (np.log2(sums_N) - np.log2(counts_N))).sum())


class ContextModel:
    """State of the model after the rows seen so far; coder and decoder step it alike.

    Facts are what is told of each row of a block before its integers, one array (R,) for each of
    `row_tables`, under whose counts they are coded: here the row's code.
    """

    def __init__(self, columns: int, limit: int) -> None:
        self.limit = limit
        self.counts = Counts(_start_counts(limit).copy())
        self.row_counts = np.ones(ROW_CODES, dtype=np.int64)
        self._column_sums_C = np.zeros(columns, dtype=np.int64)
        self._rows = 0

    @property
    def row_tables(self) -> tuple[Ints, ...]:
        """The counts of each fact, in the order in which they are coded."""
        return (self.row_counts,)

    def row_codes(self, ints_RC: npt.NDArray[np.signedinteger]) -> Ints:
        """The code (R,) of each row's mean magnitude."""
        columns = ints_RC.shape[1]
        mean_R = (np.abs(ints_RC).sum(axis=1, dtype=np.int64) << _ROW_BITS) // columns
        level_R = _level(np.maximum(mean_R, 1)) - (_ROW_BITS + _LOWEST_OCTAVE) * _FINE
        return _within((level_R + _ROW_STEP // 2) // _ROW_STEP, ROW_CODES)

    def classes(self, facts: Sequence[Ints]) -> tuple[Classes, None]:
        """The class (R, C) of each integer in the next block; none of them changes its sign."""
        level_C = _level(np.maximum(self.column_means(), 1)) - _COLUMN_BITS * _FINE
        return _classes(facts[0], level_C.astype(np.int16)), None

    def column_means(self) -> Ints:
        """The mean magnitude (C,) of each column relative to its rows, in units of 2^-20."""
        return self.per_row(self._column_sums_C + (_COLUMN_PRIOR << _COLUMN_BITS))

    def per_row(self, sums_C: Ints) -> Ints:
        """Sums over the rows so far as means, the rows that start values stand for included."""
        return sums_C // (self._rows + _COLUMN_PRIOR)

    def update(self, block_RC: Ints, facts: Sequence[Ints], seen: Seen) -> None:
        """Learns from a block after it is coded; `seen` are its cells (see `Counts.seen`)."""
        self.counts.add(seen)
        self.learn_sizes(block_RC, facts)

    def learn_sizes(self, block_RC: Ints, facts: Sequence[Ints]) -> None:
        """Learns from a block how large rows and columns are."""
        self.row_counts += np.bincount(facts[0], minlength=ROW_CODES) * _COUNT
        self._column_sums_C += (np.abs(block_RC) * _row_scales()[facts[0]][:, None]).sum(axis=0)
        self._rows += len(block_RC)


class ClusteredModel:
    """The same for rows in clusters; the facts of a row are its cluster and its code.

    Integers where the cluster's mean is negative are coded with their sign changed, so that one histogram
    serves both signs.
    """

    def __init__(self, columns: int, limit: int, clusters: int) -> None:
        self.limit = limit
        self.counts = Counts(np.concatenate([_start_counts(limit, share) for share in _SHARES]))
        self.cluster_counts = np.ones(clusters, dtype=np.int64)
        self._all = ContextModel(columns, limit)
        self._signed_C = np.zeros(columns, dtype=np.int64)
        # Of each cluster: sums of relative integers, of their magnitudes, and rows.
        self._signed_GC = np.zeros((clusters, columns), dtype=np.int64)
        self._sizes_GC = np.zeros((clusters, columns), dtype=np.int64)
        self._rows_G = np.zeros(clusters, dtype=np.int64)

    @property
    def row_tables(self) -> tuple[Ints, ...]:
        """The counts of each fact, in the order in which they are coded."""
        return self.cluster_counts, self._all.row_counts

    def row_codes(self, ints_RC: npt.NDArray[np.signedinteger]) -> Ints:
        """The code (R,) of each row's mean magnitude."""
        return self._all.row_codes(ints_RC)

    def classes(self, facts: Sequence[Ints]) -> tuple[Classes, npt.NDArray[np.bool_]]:
        """The class (R, C) of each integer in the next block, and whether its sign is changed."""
        rows_G = np.bincount(facts[0], minlength=len(self._rows_G))
        present_P = np.flatnonzero(rows_G)
        place_R = (np.cumsum(rows_G > 0) - 1)[facts[0]]
        weight_P1 = (self._rows_G[present_P] + _CLUSTER_PRIOR)[:, None]
        size_C, signed_C = self._all.column_means(), self._all.per_row(self._signed_C)
        size_PC = np.maximum((self._sizes_GC[present_P] + _CLUSTER_PRIOR * size_C) // weight_P1, 1)
        signed_PC = (self._signed_GC[present_P] + _CLUSTER_PRIOR * signed_C) // weight_P1
        level_PC = (_level(size_PC) - _COLUMN_BITS * _FINE).astype(np.int16)
        share_PC = np.searchsorted(_SHARE_BORDERS, (np.abs(signed_PC) << 8) // size_PC, side="right")
        offset_PC = (share_PC * CLASSES).astype(np.uint16)
        return _classes(facts[1], level_PC[place_R]) + offset_PC[place_R], (signed_PC < 0)[place_R]

    def update(self, block_RC: Ints, facts: Sequence[Ints], seen: Seen) -> None:
        """Learns from a block after it is coded; `seen` are its cells (see `Counts.seen`)."""
        self.counts.add(seen)
        rows_G = np.bincount(facts[0], minlength=len(self._rows_G))
        self.cluster_counts += rows_G * _COUNT
        self._rows_G += rows_G
        present_P = np.flatnonzero(rows_G)
        first_P = (np.cumsum(rows_G) - rows_G)[present_P]
        order_R = np.argsort(facts[0].astype(np.uint8), kind="stable")
        relative_RC = (block_RC * _row_scales()[facts[1]][:, None])[order_R]
        signed_PC = np.add.reduceat(relative_RC, first_P, axis=0)
        self._signed_GC[present_P] += signed_PC
        self._signed_C += signed_PC.sum(axis=0)
        self._sizes_GC[present_P] += np.add.reduceat(np.abs(relative_RC), first_P, axis=0)
        self._all.learn_sizes(block_RC, facts[1:])


def clusters_allowed(rows: int) -> int:
    """The most clusters that a matrix of so many rows may have."""
    return max(1, min(MOST_CLUSTERS, rows // ROWS_PER_CLUSTER))


def _classes(codes_R: Ints, level_RC: npt.NDArray[np.int16]) -> Classes:
    """The class (R, C) from each row's code and the levels (C,) or (R, C) of what is relative to it."""
    sum_RC = codes_R[:, None].astype(np.int16) * _ROW_STEP + level_RC
    class_RC = (sum_RC * _CLASSES_PER_OCTAVE + _FINE // 2) // _FINE
    return _within(class_RC, CLASSES).astype(np.uint16)


def _within(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The values, brought into 0 … count − 1."""
    # numpy's own clip looks up what the type can hold, which takes longer than a small block.
    return np.minimum(np.maximum(values, 0), count - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows as they are coded: `facts` with the counts of each, then `values_RC`, each integer under the
    histogram of its class; `seen` are their cells."""

    facts: tuple[tuple[Ints, Ints], ...]
    values_RC: Ints
    classes_RC: Classes
    seen: Seen


def coded_blocks(
    ints_RC: npt.NDArray[np.int8], model: ContextModel | ClusteredModel, clusters_R: Ints | None
) -> Iterator[Block]:
    """The integers in the order of the file. The model is stepped on after each block."""
    told = (model.row_codes(ints_RC),) if clusters_R is None else (clusters_R, model.row_codes(ints_RC))
    for start, stop in row_blocks(*ints_RC.shape):
        block_RC = ints_RC[start:stop].astype(np.int64)
        facts = tuple(fact_R[start:stop] for fact_R in told)
        classes_RC, flipped_RC = model.classes(facts)
        values_RC = block_RC if flipped_RC is None else np.where(flipped_RC, -block_RC, block_RC)
        seen = model.counts.seen(values_RC, classes_RC)
        yield Block(tuple(zip(facts, model.row_tables, strict=True)), values_RC, classes_RC, seen)
        model.update(block_RC, facts, seen)


def scale_steps(
    scales_N: npt.NDArray[np.float16], row: int = SCALE_ROW
) -> tuple[int, npt.NDArray[np.int8]] | None:
    """Scales of a grid as integers, so that they go through the same model: (centre, steps (·, row)).

    A step is one storable scale, about 1/16 octave; the last row is padded with zeros. None if a scale has a
    longer mantissa than a grid gives it, or they span more than 15 octaves.
    """
    patterns = scales_N.view(np.uint16).astype(np.int64)
    levels = patterns >> SCALE_SHIFT
    centre = int(np.median(levels))
    steps = levels - centre
    if ((levels << SCALE_SHIFT) != patterns).any() or np.abs(steps).max() > SCALE_LIMIT:
        return None
    padded = np.zeros(-(-len(steps) // row) * row, dtype=np.int8)
    padded[: len(steps)] = steps
    return centre, padded.reshape(-1, row)


def code_bits(ints_RC: npt.NDArray[np.int8], limit: int, clusters_R: Ints | None = None) -> float:
    """Bits that coding the integers (R, C) within ±limit takes, with the rows in clusters if given."""
    columns = ints_RC.shape[1]
    if clusters_R is None:
        model = ContextModel(columns, limit)
    else:
        model = ClusteredModel(columns, limit, int(clusters_R.max()) + 1)
    bits = 0.0
    for block in coded_blocks(ints_RC, model, clusters_R):
        bits += model.counts.bits(block.seen)
        for values_R, counts in block.facts:
            bits += len(values_R) * math.log2(counts.sum()) - float(np.log2(counts[values_R]).sum())
    return bits
