"""General compressors behind one interface: brotli 11 and LZMA2, unpacked into no more memory than expected.

The file never says how much a stream expands to; who reads it knows, and anything else is an `ArtifactError`.
"""

import lzma
from collections.abc import Callable
from enum import IntEnum

import brotli

from bytegolf.errors import ArtifactError

#: LZMA's window is the data, up to this: a decoder reserves it before it has seen any of them.
_MOST_WINDOW, _LEAST_WINDOW = 8 << 20, 4096
_PROBE = 1 << 16


class Compressor(IntEnum):
    """The first byte of `squeeze`."""

    NONE = 0
    BROTLI = 1
    LZMA = 2


def squeeze(data: bytes) -> bytes:
    """The smallest of the data as they are, under brotli and under LZMA2, after a byte that says which.

    Of more than 64 KiB, these decide which is used: brotli takes 2 to 4 s a megabyte.
    """
    part = data[:_PROBE]
    tried = {
        Compressor.NONE: part,
        Compressor.BROTLI: compress(part),
        Compressor.LZMA: compress_lzma(part),
    }
    best = min(tried, key=lambda compressor: len(tried[compressor]))
    if len(part) == len(data) or best == Compressor.NONE:
        packed = tried[best] + data[len(part) :]
    else:
        packed = compress(data) if best == Compressor.BROTLI else compress_lzma(data)
    return bytes([best]) + packed


def unsqueeze(payload: bytes, size: int) -> bytes:
    """The `size` bytes that `squeeze` was given. Raises `ArtifactError` for anything else."""
    if not payload:
        raise ArtifactError("a packed stream is empty")
    kind, data = payload[0], payload[1:]
    if kind == Compressor.BROTLI:
        return decompress(data, size)
    if kind == Compressor.LZMA:
        return decompress_lzma(data, size)
    if kind != Compressor.NONE:
        raise ArtifactError(f"a packed stream has compressor {kind}, which this program does not know")
    return exactly(data, size)


def exactly(data: bytes, size: int) -> bytes:
    """`data`, which must be `size` bytes long."""
    if len(data) != size:
        raise ArtifactError(f"{len(data)} bytes stand where {size} belong")
    return data


def compress(data: bytes) -> bytes:
    """brotli 11 of any bytes."""
    return brotli.compress(data)


def decompress(data: bytes, size: int) -> bytes:
    """The `size` bytes that `data` expands to; never more memory than that, and `ArtifactError` otherwise."""
    decoder = brotli.Decompressor()

    def more(part: bytes, wanted: int) -> bytes:
        return decoder.process(part, output_buffer_limit=wanted)

    try:
        expanded = _expanded(more, data, size)
    except brotli.error as error:
        raise ArtifactError("a compressed stream is damaged") from error
    if not decoder.is_finished():
        raise _other_size(size)
    return expanded


def compress_lzma(data: bytes) -> bytes:
    """LZMA2 of any bytes, without the container of .xz files.

    No bits of context or position: the bytes of packed weights depend little on each other.
    """
    extreme = {"preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=[{**_window(len(data)), **extreme}])


def decompress_lzma(data: bytes, size: int) -> bytes:
    """The `size` bytes of `compress_lzma`; never more memory than that, and `ArtifactError` otherwise."""
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[_window(size)])

    def more(part: bytes, wanted: int) -> bytes:
        return b"" if decoder.eof else decoder.decompress(part, max_length=wanted)

    try:
        expanded = _expanded(more, data, size)
    except (lzma.LZMAError, EOFError) as error:
        raise ArtifactError("a compressed stream is damaged") from error
    if not decoder.eof or decoder.unused_data:
        raise _other_size(size)
    return expanded


def _expanded(more: Callable[[bytes, int], bytes], data: bytes, size: int) -> bytes:
    # One byte more shows that a stream goes on past its size without ever unpacking it all.
    wanted = size + 1
    parts: list[bytes] = []
    part = more(data, wanted)
    while part:
        parts.append(part)
        wanted -= len(part)
        part = more(b"", wanted) if wanted > 0 else b""
    if wanted != 1:
        raise _other_size(size)
    return b"".join(parts)


def _other_size(size: int) -> ArtifactError:
    return ArtifactError(f"a compressed stream does not hold the {size} bytes it should")


def _window(size: int) -> dict[str, int]:
    return {"id": lzma.FILTER_LZMA2, "dict_size": min(max(size, _LEAST_WINDOW), _MOST_WINDOW)}
