"""Ternary and binary integers in a fixed number of bits, which general compressors then may shorten.

N integers in row-major order. They need no model, so they win where a matrix is small or plain noise:

- trits: five integers a byte, the value Σ (x_i + 1) · 3^i, 1.6 bits each;
- mask: a bit for each integer that is not zero, then the signs of those, 1 + (1 - p0) bits each;
- signs: a bit each where zero never occurs.
"""

import numpy as np
import numpy.typing as npt

from bytegolf.artifact.compressors import Compressor, unsqueeze
from bytegolf.errors import ArtifactError

Int8s = npt.NDArray[np.int8]

_TRITS = 5
_POWERS = 3 ** np.arange(_TRITS)
_LENGTH = 4


def pack_trits(ints_N: Int8s) -> bytes:
    """ceil(N / 5) bytes; the last one is filled up with the digit 0."""
    digits = np.zeros((-(-len(ints_N) // _TRITS), _TRITS), dtype=np.uint8)
    digits.reshape(-1)[: len(ints_N)] = ints_N + 1
    return (digits @ _POWERS.astype(np.uint8)).tobytes()


def unpack_trits(payload: bytes, count: int) -> Int8s:
    """The integers behind `squeeze(pack_trits(…))`. Raises `ArtifactError` for bytes beyond five trits."""
    packed = np.frombuffer(unsqueeze(payload, -(-count // _TRITS)), dtype=np.uint8)
    if packed.size and packed.max() >= 3**_TRITS:
        raise ArtifactError(f"a byte of five ternary digits is {packed.max()}, of 0 to {3**_TRITS - 1}")
    digits = np.empty((len(packed), _TRITS), dtype=np.int8)
    for i in range(_TRITS):
        digits[:, i] = packed % 3
        packed = packed // 3
    return digits.reshape(-1)[:count] - np.int8(1)


def pack_mask(ints_N: Int8s) -> tuple[bytes, bytes]:
    """The bits of what is not zero, ceil(N / 8) bytes, and the signs of those."""
    return np.packbits(ints_N != 0).tobytes(), pack_signs(ints_N[ints_N != 0])


def plain(data: bytes) -> bytes:
    """What `squeeze` gives for data that no compressor makes smaller."""
    return bytes([Compressor.NONE]) + data


def join_mask(mask: bytes, signs: bytes) -> bytes:
    """One payload of the two, each squeezed."""
    return len(mask).to_bytes(_LENGTH, "little") + mask + signs


def unpack_mask(payload: bytes, count: int) -> Int8s:
    """The integers behind `join_mask`. Raises `ArtifactError` for streams that don't belong together."""
    stop = _LENGTH + int.from_bytes(payload[:_LENGTH], "little")
    nonzero_N = _bits(unsqueeze(payload[_LENGTH:stop], -(-count // 8)), count)
    ints_N = np.zeros(count, dtype=np.int8)
    ints_N[nonzero_N] = unpack_signs(payload[stop:], int(nonzero_N.sum()))
    return ints_N


def pack_signs(ints_N: Int8s) -> bytes:
    """ceil(N / 8) bytes of integers that are all -1 or 1."""
    return np.packbits(ints_N > 0).tobytes()


def unpack_signs(payload: bytes, count: int) -> Int8s:
    """The integers behind `squeeze(pack_signs(…))`."""
    return np.where(_bits(unsqueeze(payload, -(-count // 8)), count), np.int8(1), np.int8(-1))


def _bits(data: bytes, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count).astype(np.bool_)
