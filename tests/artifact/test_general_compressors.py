"""General compressors give back what they were given, and never unpack more than was asked for."""

import lzma
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.artifact import compressors
from bytegolf.artifact.compressors import (
    Compressor,
    compress,
    compress_lzma,
    decompress,
    decompress_lzma,
    squeeze,
    unsqueeze,
)
from bytegolf.errors import ArtifactError

PAIRS = pytest.mark.parametrize(
    ("pack", "unpack"), [(compress, decompress), (compress_lzma, decompress_lzma)], ids=["brotli", "lzma"]
)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300) | st.binary(max_size=9).map(lambda part: part * 40))
def test_bytes_come_back(data: bytes) -> None:
    assert decompress(compress(data), len(data)) == data
    assert decompress_lzma(compress_lzma(data), len(data)) == data
    packed = squeeze(data)
    assert len(packed) <= 1 + len(data)
    assert unsqueeze(packed, len(data)) == data


@pytest.mark.parametrize("kind", [Compressor.NONE, Compressor.BROTLI, Compressor.LZMA])
def test_long_data_come_back_under_the_compressor_that_their_start_decides(
    kind: Compressor, monkeypatch
) -> None:
    monkeypatch.setattr(compressors, "_PROBE", 1000)
    random = np.random.default_rng(0)
    noise = random.bytes(3000)
    data = {
        Compressor.NONE: noise,
        Compressor.BROTLI: b"the time of the other people which is " * 300,
        Compressor.LZMA: bytes(random.choice(4, 9000, p=[0.94, 0.02, 0.02, 0.02]).astype(np.uint8)),
    }[kind]
    packed = squeeze(data)
    assert unsqueeze(packed, len(data)) == data
    if kind != Compressor.LZMA:
        assert packed[0] == kind


@PAIRS
def test_other_sizes_and_damage_are_refused(pack, unpack) -> None:
    data = b"trained weights " * 20
    packed = pack(data)
    for size in (0, 1, len(data) - 1, len(data) + 1, 10 * len(data)):
        with pytest.raises(ArtifactError, match=f"{size} bytes"):
            unpack(packed, size)
    for cut in range(len(packed)):
        with pytest.raises(ArtifactError):
            unpack(packed[:cut], len(data))
    with pytest.raises(ArtifactError):
        unpack(packed + b"x", len(data))


@PAIRS
def test_a_stream_that_expands_beyond_its_size_takes_no_memory(pack, unpack) -> None:
    bomb = pack(bytes(1 << 25))
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="1000 bytes"):
        unpack(bomb, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_lzma_reserves_a_window_no_larger_than_the_data() -> None:
    """A stream names no window of its own: the reader sets it."""
    data = np.random.default_rng(0).bytes(1 << 16) * 2
    wide = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}]
    packed = lzma.compress(data, format=lzma.FORMAT_RAW, filters=wide)
    assert decompress_lzma(packed, len(data)) == data
    far = lzma.compress(bytes(1 << 16) + data, format=lzma.FORMAT_RAW, filters=wide)
    with pytest.raises(ArtifactError):
        decompress_lzma(far, 5000)
