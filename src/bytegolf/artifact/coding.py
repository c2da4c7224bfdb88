"""Arrays to bytes and back: range coding under an adaptive model, and brotli; the smaller wins.

A coded array is one method byte and a payload; type and shape come from whoever asks for it back. Decoders
take data from strangers: they allocate no more than the asked-for shape and answer anything else with
`ArtifactError`.

brotli 11 takes 2 to 4 s a million integers and loses to the range coder on all but small or repetitive
matrices. A matrix of more than 64 KiB is therefore left to the range coder unless brotli 11 beats it on the
first rows, those within 16 KiB.
"""

import math
from enum import IntEnum
from typing import Any

import brotli
import constriction
import numpy as np
import numpy.typing as npt

from bytegolf.compression.common_row import CommonRow, join_common_row, split_common_row
from bytegolf.compression.context import (
    CLASSES,
    SCALE_LIMIT,
    SCALE_ROW,
    SCALE_SHIFT,
    ContextModel,
    row_blocks,
    scale_steps,
)
from bytegolf.errors import ArtifactError

Int8s = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float16] | npt.NDArray[np.float32]

# The wheel has no type stubs for its submodules.
_stream: Any = constriction.stream  # pyrefly: ignore[missing-attribute]

_SMALL, _PROBE = 1 << 16, 1 << 14


class Method(IntEnum):
    """The first byte of every coded array."""

    RAW = 0
    BROTLI = 1
    SHUFFLED_BROTLI = 2
    CONTEXT = 3
    COMMON_ROW = 4


def encode_ints(ints_RC: Int8s, limit: int) -> bytes:
    """The coded integers (R, C), each within ±limit."""
    assert ints_RC.ndim == 2
    coded = bytes([Method.CONTEXT]) + _range_encode(ints_RC, limit)
    common = split_common_row(ints_RC, limit)
    if common is not None:
        coded = min(coded, bytes([Method.COMMON_ROW]) + _encode_common(common, limit), key=len)
    raw = ints_RC.tobytes()
    if len(raw) > _SMALL:
        first_RC = ints_RC[: max(1, _PROBE // ints_RC.shape[1])]
        if len(brotli.compress(first_RC.tobytes())) >= len(_range_encode(first_RC, limit)):
            return coded
    return min(coded, bytes([Method.BROTLI]) + brotli.compress(raw), key=len)


def decode_ints(data: bytes, shape: tuple[int, int], limit: int) -> Int8s:
    """The integers (R, C) of `encode_ints`. Raises `ArtifactError` if the data are not such a code."""
    method, payload = _method(data)
    rows, columns = shape
    if method == Method.CONTEXT:
        return _range_decode(payload, rows, columns, limit)
    if method == Method.COMMON_ROW:
        return join_common_row(_decode_common(payload, rows, columns, limit), limit)
    if method != Method.BROTLI:
        raise ArtifactError(f"integers are coded by method {method:d}, which is not for integers")
    ints_RC = np.frombuffer(decompress(payload, rows * columns), dtype=np.int8).reshape(rows, columns)
    if ints_RC.size and max(int(ints_RC.max()), -int(ints_RC.min())) > limit:
        raise ArtifactError(f"integers beyond the ±{limit} of their grid")
    return ints_RC


def encode_floats(values: Floats) -> bytes:
    """The coded values of a float16 or float32 array."""
    raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    shuffled = np.frombuffer(raw, dtype=np.uint8).reshape(-1, values.itemsize).T.tobytes()
    return min(
        bytes([Method.SHUFFLED_BROTLI]) + brotli.compress(shuffled),
        bytes([Method.BROTLI]) + brotli.compress(raw),
        bytes([Method.RAW]) + raw,
        key=len,
    )


def decode_floats(data: bytes, shape: tuple[int, ...], kind: type[np.float16] | type[np.float32]) -> Floats:
    """The array of `encode_floats`. Raises `ArtifactError` on bad data and on values that are not finite."""
    method, payload = _method(data)
    item = np.dtype(kind).newbyteorder("<")
    size = math.prod(shape) * item.itemsize
    if method == Method.RAW:
        raw = payload
        if len(raw) != size:
            raise ArtifactError(f"{len(raw)} bytes stand where {size} belong")
    elif method in (Method.BROTLI, Method.SHUFFLED_BROTLI):
        raw = decompress(payload, size)
    else:
        raise ArtifactError(f"floats are coded by method {method:d}, which is not for floats")
    if method == Method.SHUFFLED_BROTLI:
        raw = np.frombuffer(raw, dtype=np.uint8).reshape(item.itemsize, -1).T.tobytes()
    values = np.frombuffer(raw, dtype=item).astype(kind).reshape(shape)
    if not np.isfinite(values).all():
        raise ArtifactError("a stored value is NaN or infinite")
    return values


def encode_scales(scales_R: npt.NDArray[np.float16]) -> bytes:
    """The coded row scales (R,). Scales of a `Grid` go through the integer coder by their logarithm."""
    floats = encode_floats(scales_R)
    split = scale_steps(scales_R)
    if split is None:
        return floats
    centre, steps = split
    payload = _range_encode(steps, SCALE_LIMIT)
    return min(floats, bytes([Method.CONTEXT]) + centre.to_bytes(2, "little") + payload, key=len)


def decode_scales(data: bytes, rows: int) -> npt.NDArray[np.float16]:
    """The scales (R,) of `encode_scales`. Raises `ArtifactError` on bad data and on scales not above zero."""
    method, payload = _method(data)
    if method == Method.CONTEXT:
        centre = int.from_bytes(payload[:2], "little")
        steps = _range_decode(payload[2:], -(-rows // SCALE_ROW), SCALE_ROW, SCALE_LIMIT)
        levels = steps.reshape(-1)[:rows].astype(np.int64) + centre
        patterns = np.clip(levels, 0, 0x7FFF >> SCALE_SHIFT) << SCALE_SHIFT
        scales = patterns.astype(np.uint16).view(np.float16)
    else:
        scales = decode_floats(data, (rows,), np.float16)
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ArtifactError("a row scale is not a positive number")
    return scales.astype(np.float16)


def compress(data: bytes) -> bytes:
    """brotli 11 of any bytes."""
    return brotli.compress(data)


def decompress(data: bytes, size: int) -> bytes:
    """The `size` bytes that `data` expands to; never more memory than that, and `ArtifactError` otherwise."""
    decoder = brotli.Decompressor()
    # One byte more shows that a stream goes on past its size without ever unpacking it all.
    wanted = size + 1
    parts: list[bytes] = []
    try:
        part = decoder.process(data, output_buffer_limit=wanted)
        while part:
            parts.append(part)
            wanted -= len(part)
            part = decoder.process(b"", output_buffer_limit=wanted) if wanted > 0 else b""
    except brotli.error as error:
        raise ArtifactError("a compressed stream is damaged") from error
    if wanted != 1 or not decoder.is_finished():
        raise ArtifactError(f"a compressed stream does not hold the {size} bytes it should")
    return b"".join(parts)


def _method(data: bytes) -> tuple[int, bytes]:
    if not data:
        raise ArtifactError("a coded array is empty")
    return data[0], data[1:]


def _encode_common(common: CommonRow, limit: int) -> bytes:
    members = brotli.compress(np.packbits(common.members_R).tobytes())
    return len(members).to_bytes(4, "little") + members + _range_encode(common.ints_RC, limit)


def _decode_common(payload: bytes, rows: int, columns: int, limit: int) -> CommonRow:
    stop = 4 + int.from_bytes(payload[:4], "little")
    bits = np.frombuffer(decompress(payload[4:stop], -(-rows // 8)), dtype=np.uint8)
    members_R = np.unpackbits(bits, count=rows).astype(np.bool_)
    return CommonRow(members_R, _range_decode(payload[stop:], rows + 1, columns, limit))


def _range_encode(ints_RC: Int8s, limit: int) -> bytes:
    rows, columns = ints_RC.shape
    model = ContextModel(columns, limit)
    coder = _stream.queue.RangeEncoder()
    for start, stop in row_blocks(rows, columns):
        block_RC = ints_RC[start:stop].astype(np.int64)
        codes_R = model.row_codes(block_RC)
        coder.encode(codes_R.astype(np.int32), _categorical(model.row_counts))
        classes_RC = model.classes(codes_R)
        order, sizes = _by_class(classes_RC)
        symbols = (block_RC.reshape(-1)[order] + limit).astype(np.int32)
        position = 0
        for k in np.flatnonzero(sizes):
            coder.encode(symbols[position : position + sizes[k]], _categorical(model.counts_KS[k]))
            position += sizes[k]
        model.update(block_RC, codes_R, model.histogram(block_RC, classes_RC))
    return coder.get_compressed().astype("<u4").tobytes()


def _range_decode(payload: bytes, rows: int, columns: int, limit: int) -> Int8s:
    if len(payload) % 4:
        raise ArtifactError("a range-coded stream is not a whole number of words")
    words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
    coder = _stream.queue.RangeDecoder(words)
    ints_RC = np.empty((rows, columns), dtype=np.int8)
    model = ContextModel(columns, limit)
    try:
        for start, stop in row_blocks(rows, columns):
            codes_R = coder.decode(_categorical(model.row_counts), stop - start).astype(np.int64)
            classes_RC = model.classes(codes_R)
            order, sizes = _by_class(classes_RC)
            symbols = np.empty(order.size, dtype=np.int64)
            position = 0
            for k in np.flatnonzero(sizes):
                decoded = coder.decode(_categorical(model.counts_KS[k]), int(sizes[k]))
                symbols[order[position : position + sizes[k]]] = decoded
                position += sizes[k]
            block_RC = symbols.reshape(stop - start, columns) - limit
            ints_RC[start:stop] = block_RC
            model.update(block_RC, codes_R, model.histogram(block_RC, classes_RC))
    except (AssertionError, ValueError) as error:
        raise ArtifactError("a range-coded stream is damaged") from error
    if not coder.maybe_exhausted():
        raise ArtifactError("a range-coded stream is longer than its integers")
    return ints_RC


def _by_class(classes_RC: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of a block's integers sorted by class, row-major within a class; and each class's size."""
    flat = classes_RC.reshape(-1)
    return np.argsort(flat, kind="stable"), np.bincount(flat, minlength=CLASSES)


def _categorical(counts: npt.NDArray[np.int64]) -> Any:
    return _stream.model.Categorical(counts.astype(np.float64), perfect=False)
