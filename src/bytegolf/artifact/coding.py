"""Arrays to bytes and back, by whichever of several codings is smallest.

A coded array is one method byte and a payload; type and shape come from whoever asks for it back. Decoders
take data from strangers: they allocate no more than the asked-for shape and answer anything else with
`ArtifactError`.

Integers go to the range coder in the arrangement that its own model says is smallest: as they are,
transposed, with rows in clusters, with a common row taken out. The model's answer costs a fraction of a
second, so that only the best is coded. General compressors take 1 to 4 s a million integers and lose on
all but small or repetitive matrices: beyond 64 KiB they are tried only if their rate on some rows wins.
"""

import math
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from bytegolf.artifact import packing, ranges
from bytegolf.artifact.compressors import (
    compress,
    compress_lzma,
    decompress,
    decompress_lzma,
    exactly,
    squeeze,
)
from bytegolf.artifact.header import MAX_ROW
from bytegolf.compression.arrangement import arrangements
from bytegolf.compression.common_row import CommonRow, join_common_row
from bytegolf.compression.context import SCALE_LIMIT, SCALE_ROW, SCALE_SHIFT, code_bits, scale_steps
from bytegolf.errors import ArtifactError

Int8s = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: Bytes up to which every general compressor is tried on all, and those of the rows that decide beyond.
_SMALL, _PROBE = 1 << 16, 1 << 14
#: The largest magnitude of an e4m3 pattern, 448; one more is its NaN.
_FLOAT8_LARGEST, _FLOAT8_LIMIT = 0x7E, 0x7F
_MEMBERS_LENGTH = 4


class Method(IntEnum):
    """The first byte of every coded array. `TRANSPOSED` is followed by another method's byte."""

    RAW = 0
    BROTLI = 1
    SHUFFLED_BROTLI = 2
    CONTEXT = 3
    COMMON_ROW = 4
    LZMA = 5
    SHUFFLED_LZMA = 6
    CLUSTERED = 7
    COMMON_ROW_CLUSTERED = 8
    TRANSPOSED = 9
    TRITS = 10
    MASK = 11
    SIGNS = 12


_MODELLED = (Method.CONTEXT, Method.CLUSTERED, Method.COMMON_ROW, Method.COMMON_ROW_CLUSTERED)


def encode_ints(ints_RC: Int8s, limit: int) -> bytes:
    """The coded integers (R, C), each within ±limit."""
    assert ints_RC.ndim == 2
    coded = _modelled(ints_RC, limit)
    for method, payload in _packed(ints_RC, limit):
        coded = min(coded, bytes([method]) + payload, key=len)
    if ints_RC.size > _SMALL:
        # From the middle: an embedding begins with tokens that rarely occur, and whose rows are nearly equal.
        rows = max(1, _PROBE // ints_RC.shape[1])
        probe_RC = ints_RC[(len(ints_RC) - rows) // 2 :][:rows]
        rate = min(len(payload) for _, payload in _compressed(probe_RC, limit)) / probe_RC.size
        if rate * ints_RC.size >= len(coded):
            return coded
    for method, payload in _compressed(ints_RC, limit):
        coded = min(coded, bytes([method]) + payload, key=len)
    return coded


def decode_ints(data: bytes, shape: tuple[int, int], limit: int) -> Int8s:
    """The integers (R, C) of `encode_ints`. Raises `ArtifactError` if the data are not such a code."""
    method, payload = _method(data)
    rows, columns = shape
    if method == Method.TRANSPOSED:
        inner, payload = _method(payload)
        if rows > MAX_ROW:
            raise ArtifactError(f"{rows} rows are coded transposed; at most {MAX_ROW} may be")
        return np.ascontiguousarray(_decode_modelled(inner, payload, columns, rows, limit).T)
    if method in _MODELLED:
        return _decode_modelled(method, payload, rows, columns, limit)
    count = rows * columns
    if method in (Method.TRITS, Method.MASK, Method.SIGNS) and limit == 1:
        unpack = {
            Method.TRITS: packing.unpack_trits,
            Method.MASK: packing.unpack_mask,
            Method.SIGNS: packing.unpack_signs,
        }[Method(method)]
        return unpack(payload, count).reshape(rows, columns)
    if method == Method.BROTLI:
        raw = decompress(payload, count)
    elif method == Method.LZMA:
        raw = decompress_lzma(payload, count)
    else:
        raise ArtifactError(f"integers within ±{limit} are coded by method {method:d}, which is not for them")
    ints_RC = np.frombuffer(raw, dtype=np.int8).reshape(rows, columns)
    if ints_RC.size and max(int(ints_RC.max()), -int(ints_RC.min())) > limit:
        raise ArtifactError(f"integers beyond the ±{limit} of their grid")
    return ints_RC


def encode_floats(values: Floats) -> bytes:
    """The coded values of a float16 or float32 array.

    Of more than 64 KiB, the coding that is smallest for the first 64 KiB.
    """
    raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    part = raw[:_SMALL]
    tried = {method: _float_payload(method, part, values.itemsize) for method in _FLOAT_METHODS}
    best = min(tried, key=lambda method: len(tried[method]))
    payload = tried[best] if len(part) == len(raw) else _float_payload(best, raw, values.itemsize)
    return bytes([best]) + payload


def decode_floats(data: bytes, shape: tuple[int, ...], kind: type[np.float16] | type[np.float32]) -> Floats:
    """The array of `encode_floats`. Raises `ArtifactError` on bad data and on values that are not finite."""
    method, payload = _method(data)
    item = np.dtype(kind).newbyteorder("<")
    size = math.prod(shape) * item.itemsize
    if method == Method.RAW:
        raw = exactly(payload, size)
    elif method in (Method.BROTLI, Method.SHUFFLED_BROTLI):
        raw = decompress(payload, size)
    elif method in (Method.LZMA, Method.SHUFFLED_LZMA):
        raw = decompress_lzma(payload, size)
    else:
        raise ArtifactError(f"floats are coded by method {method:d}, which is not for floats")
    if method in (Method.SHUFFLED_BROTLI, Method.SHUFFLED_LZMA):
        raw = np.frombuffer(raw, dtype=np.uint8).reshape(item.itemsize, -1).T.tobytes()
    values = np.frombuffer(raw, dtype=item).astype(kind).reshape(shape)
    if not np.isfinite(values).all():
        raise ArtifactError("a stored value is NaN or infinite")
    return values


def encode_float8(patterns: Bytes) -> bytes:
    """The coded bit patterns of an e4m3 array, none of them NaN: as integers in the order of their values."""
    magnitudes = (patterns & _FLOAT8_LIMIT).astype(np.int8)
    # -0 is a value of its own.
    ordered = np.where(patterns > _FLOAT8_LIMIT, ~magnitudes, magnitudes)
    return encode_ints(ordered.reshape(_as_matrix(patterns.shape)), _FLOAT8_LIMIT)


def decode_float8(data: bytes, shape: tuple[int, ...]) -> Bytes:
    """The bit patterns of `encode_float8`. Raises `ArtifactError` on bad data and on NaN."""
    ordered = decode_ints(data, _as_matrix(shape), _FLOAT8_LIMIT).reshape(shape)
    if ordered.size and int(ordered.max()) > _FLOAT8_LARGEST:
        raise ArtifactError("a stored value is NaN")
    negative = ordered < 0
    magnitudes = np.where(negative, ~ordered, ordered).astype(np.uint8)
    return magnitudes + negative.astype(np.uint8) * np.uint8(_FLOAT8_LIMIT + 1)


def encode_scales(scales: npt.NDArray[np.float16]) -> bytes:
    """The coded scales, (R,) or (R, G). Those of a grid go through the integer coder by their logarithm."""
    floats = encode_floats(scales)
    split = scale_steps(scales.reshape(-1), _scale_row(scales.shape))
    if split is None:
        return floats
    centre, steps = split
    payload = ranges.encode(steps, SCALE_LIMIT)
    return min(floats, bytes([Method.CONTEXT]) + centre.to_bytes(2, "little") + payload, key=len)


def decode_scales(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """The scales of `encode_scales`. Raises `ArtifactError` on bad data and on scales not above zero."""
    method, payload = _method(data)
    if method == Method.CONTEXT:
        centre = int.from_bytes(payload[:2], "little")
        count, row = math.prod(shape), _scale_row(shape)
        steps = ranges.decode(payload[2:], -(-count // row), row, SCALE_LIMIT)
        levels = steps.reshape(-1)[:count].astype(np.int64) + centre
        patterns = np.clip(levels, 0, 0x7FFF >> SCALE_SHIFT) << SCALE_SHIFT
        scales = patterns.astype(np.uint16).view(np.float16).reshape(shape)
    else:
        scales = decode_floats(data, shape, np.float16)
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ArtifactError("a scale is not a positive number")
    return scales.astype(np.float16)


def _method(data: bytes) -> tuple[int, bytes]:
    if not data:
        raise ArtifactError("a coded array is empty")
    return data[0], data[1:]


def _modelled(ints_RC: Int8s, limit: int) -> bytes:
    """The range-coded integers in the arrangement of the least estimated size."""
    best = min(arrangements(ints_RC, limit), key=lambda arrangement: arrangement.bits)
    if len(ints_RC) <= MAX_ROW:
        transposed_CR = np.ascontiguousarray(ints_RC.T)
        if code_bits(transposed_CR, limit) < best.bits:
            return bytes([Method.TRANSPOSED, Method.CONTEXT]) + ranges.encode(transposed_CR, limit)
    members = b"" if best.common is None else _members(best.common)
    if best.clusters_R is None:
        method = Method.CONTEXT if best.common is None else Method.COMMON_ROW
        return bytes([method]) + members + ranges.encode(best.ints_RC, limit)
    method = Method.CLUSTERED if best.common is None else Method.COMMON_ROW_CLUSTERED
    return bytes([method]) + members + ranges.encode_clustered(best.ints_RC, limit, best.clusters_R)


def _decode_modelled(method: int, payload: bytes, rows: int, columns: int, limit: int) -> Int8s:
    if method == Method.CONTEXT:
        return ranges.decode(payload, rows, columns, limit)
    if method == Method.CLUSTERED:
        return ranges.decode_clustered(payload, rows, columns, limit)
    if method not in (Method.COMMON_ROW, Method.COMMON_ROW_CLUSTERED):
        raise ArtifactError(f"a transposed matrix is coded by method {method:d}, which is not for them")
    stop = _MEMBERS_LENGTH + int.from_bytes(payload[:_MEMBERS_LENGTH], "little")
    bits = np.frombuffer(decompress(payload[_MEMBERS_LENGTH:stop], -(-rows // 8)), dtype=np.uint8)
    members_R = np.unpackbits(bits, count=rows).astype(np.bool_)
    decode = ranges.decode if method == Method.COMMON_ROW else ranges.decode_clustered
    return join_common_row(CommonRow(members_R, decode(payload[stop:], rows + 1, columns, limit)), limit)


def _members(common: CommonRow) -> bytes:
    members = compress(np.packbits(common.members_R).tobytes())
    return len(members).to_bytes(_MEMBERS_LENGTH, "little") + members


def _packed(ints_RC: Int8s, limit: int) -> Iterator[tuple[Method, bytes]]:
    """Integers within ±1 in a fixed number of bits, which takes no time."""
    if limit == 1:
        ints_N, plain = ints_RC.reshape(-1), packing.plain
        yield Method.TRITS, plain(packing.pack_trits(ints_N))
        mask, signs = packing.pack_mask(ints_N)
        yield Method.MASK, packing.join_mask(plain(mask), plain(signs))
        if len(signs) == len(mask) and ints_N.all():
            yield Method.SIGNS, plain(signs)


def _compressed(ints_RC: Int8s, limit: int) -> Iterator[tuple[Method, bytes]]:
    """General compressors over the integers, a byte each or packed."""
    raw, ints_N = ints_RC.tobytes(), ints_RC.reshape(-1)
    yield Method.BROTLI, compress(raw)
    yield Method.LZMA, compress_lzma(raw)
    if limit == 1:
        yield Method.TRITS, squeeze(packing.pack_trits(ints_N))
        mask, signs = packing.pack_mask(ints_N)
        yield Method.MASK, packing.join_mask(squeeze(mask), squeeze(signs))
        if ints_N.all():
            yield Method.SIGNS, squeeze(signs)


_FLOAT_METHODS = (
    Method.SHUFFLED_BROTLI,
    Method.BROTLI,
    Method.RAW,
    Method.SHUFFLED_LZMA,
    Method.LZMA,
)


def _float_payload(method: Method, raw: bytes, itemsize: int) -> bytes:
    if method in (Method.SHUFFLED_BROTLI, Method.SHUFFLED_LZMA):
        raw = np.frombuffer(raw, dtype=np.uint8).reshape(-1, itemsize).T.tobytes()
    if method == Method.RAW:
        return raw
    return compress(raw) if method in (Method.BROTLI, Method.SHUFFLED_BROTLI) else compress_lzma(raw)


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns in which an array of any shape goes through the integer coder."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _scale_row(shape: tuple[int, ...]) -> int:
    """Scales in a row of the integer coder: those of one matrix row where it has several."""
    return shape[1] if len(shape) == 2 and shape[1] > 1 else SCALE_ROW
