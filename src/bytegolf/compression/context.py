"""The probability model behind the coded integers: how likely each is, given those before it.

R rows, C columns, K classes, S = 2q + 1 symbols. Trained matrices are not identically distributed: columns
of an embedding differ in size by octaves, rows a little. So each integer is coded under the class of its
expected magnitude,

    class = 3 · log2( mean|row| · mean|column relative to its rows| ),

with one adaptive histogram a class. A row's mean goes into the stream as one small code; the columns' means
and the histograms are learned from the rows before, so no table is stored. Rows come in blocks that grow with
what has been seen (a sixteenth of it), which keeps the arithmetic in whole arrays.

The same object yields the estimated size (`code_bits`) and drives the coder, so the two cannot disagree.
All arithmetic is on integers: floating-point logarithms differ between machines, and one different class
would make a file unreadable.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bytegolf.compression.grid import SCALE_MANTISSA_BITS

Ints = npt.NDArray[np.int64]

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
#: A block of rows is at most this share (1/n) of the rows before it.
_GROWTH = 16
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
def _start_counts(limit: int) -> Ints:
    """Histograms (K, S) before anything is seen: Gaussians of each class's mean magnitude.

    variance = π/2 · magnitude² + 1/12, weight(x) = 2^(-x² · log2(e) / (2 · variance)), in fixed point.
    """
    squares_S = [x * x for x in range(-limit, limit + 1)]
    decay = [_power(24 * 32 - e, 32) for e in range(24 * 32)]
    prior = _HISTOGRAM_PRIOR * len(squares_S) * _COUNT
    rows = []
    for k in range(CLASSES):
        # magnitude² · 2^16 with a third of an octave taken as 21/64.
        octave, third = divmod(k, _CLASSES_PER_OCTAVE)
        square = _power(2 * 64 * (octave + _LOWEST_OCTAVE) + 2 * 21 * third, 64, bits=16)
        variance = square * 15708 // 10000 + (1 << 16) // 12
        exponents = [square_x * 7213 * 32 * (1 << 16) // (10000 * variance) for square_x in squares_S]
        weights = [decay[e] if e < len(decay) else 0 for e in exponents]
        total = sum(weights)
        rows.append([1 + weight * prior // total for weight in weights])
    return np.array(rows, dtype=np.int64)


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """The spans of rows that are coded under one state of the model."""
    start = 0
    while start < rows:
        stop = min(rows, start + max(1, min(start // _GROWTH, _BLOCK // columns)))
        yield start, stop
        start = stop


class ContextModel:
    """State of the model after the rows seen so far; coder and decoder step it alike."""

    def __init__(self, columns: int, limit: int) -> None:
        self.limit = limit
        self.counts_KS = _start_counts(limit).copy()
        self.row_counts = np.ones(ROW_CODES, dtype=np.int64)
        self._column_sums_C = np.zeros(columns, dtype=np.int64)
        self._rows = 0

    def row_codes(self, block_RC: Ints) -> Ints:
        """The code (R,) of each row's mean magnitude."""
        columns = block_RC.shape[1]
        mean_R = (np.abs(block_RC).sum(axis=1) << _ROW_BITS) // columns
        level_R = _level(np.maximum(mean_R, 1)) - (_ROW_BITS + _LOWEST_OCTAVE) * _FINE
        return np.clip((level_R + _ROW_STEP // 2) // _ROW_STEP, 0, ROW_CODES - 1)

    def classes(self, codes_R: Ints) -> npt.NDArray[np.uint8]:
        """The class (R, C) of each integer in the next block."""
        relative_C = (self._column_sums_C + (_COLUMN_PRIOR << _COLUMN_BITS)) // (self._rows + _COLUMN_PRIOR)
        level_C = _level(np.maximum(relative_C, 1)) - _COLUMN_BITS * _FINE
        level_RC = codes_R[:, None].astype(np.int16) * _ROW_STEP + level_C.astype(np.int16)
        class_RC = (level_RC * _CLASSES_PER_OCTAVE + _FINE // 2) // _FINE
        return np.clip(class_RC, 0, CLASSES - 1).astype(np.uint8)

    def update(self, block_RC: Ints, codes_R: Ints, histogram_KS: Ints) -> None:
        """Learns from a block after it is coded. `histogram_KS` counts its integers by class."""
        self.counts_KS += histogram_KS * _COUNT
        self.row_counts += np.bincount(codes_R, minlength=ROW_CODES) * _COUNT
        self._column_sums_C += (np.abs(block_RC) * _row_scales()[codes_R][:, None]).sum(axis=0)
        self._rows += len(block_RC)

    def histogram(self, block_RC: Ints, classes_RC: npt.NDArray[np.uint8]) -> Ints:
        """How often each integer occurs in each class: (K, S)."""
        symbols = 2 * self.limit + 1
        cells = classes_RC.astype(np.int32) * symbols + (block_RC + self.limit).astype(np.int32)
        counts = np.bincount(cells.reshape(-1), minlength=CLASSES * symbols)
        return counts.reshape(CLASSES, symbols)


def scale_steps(scales_R: npt.NDArray[np.float16]) -> tuple[int, npt.NDArray[np.int8]] | None:
    """Scales of a `Grid` as integers, so that they go through the same model: (centre, steps (·, 32)).

    A step is one storable scale, about 1/16 octave; the last row is padded with zeros. None if a scale has a
    longer mantissa than a grid gives it, or they span more than 15 octaves.
    """
    patterns = scales_R.view(np.uint16).astype(np.int64)
    levels = patterns >> SCALE_SHIFT
    centre = int(np.median(levels))
    steps = levels - centre
    if ((levels << SCALE_SHIFT) != patterns).any() or np.abs(steps).max() > SCALE_LIMIT:
        return None
    padded = np.zeros(-(-len(steps) // SCALE_ROW) * SCALE_ROW, dtype=np.int8)
    padded[: len(steps)] = steps
    return centre, padded.reshape(-1, SCALE_ROW)


def code_bits(ints_RC: npt.NDArray[np.int8], limit: int) -> float:
    """Bits that coding the integers (R, C) within ±limit takes under this model."""
    rows, columns = ints_RC.shape
    model = ContextModel(columns, limit)
    bits = 0.0
    for start, stop in row_blocks(rows, columns):
        block_RC = ints_RC[start:stop].astype(np.int64)
        codes_R = model.row_codes(block_RC)
        histogram_KS = model.histogram(block_RC, model.classes(codes_R))
        bits += _cross_entropy(histogram_KS, model.counts_KS)
        bits += _cross_entropy(np.bincount(codes_R, minlength=ROW_CODES), model.row_counts)
        model.update(block_RC, codes_R, histogram_KS)
    return bits


def _cross_entropy(observed: Ints, counts: Ints) -> float:
    """Bits of the observed symbols (…, S) under probabilities counts / sum(counts)."""
    totals = counts.sum(axis=-1, keepdims=True)
    return float((observed * (np.log2(totals) - np.log2(counts))).sum())
