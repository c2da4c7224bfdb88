"""Coded arrays come back bit for bit, take about their entropy, and never more memory than asked for."""

import hashlib

import brotli
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bytegolf.artifact import coding, compressors, packing, ranges
from bytegolf.artifact.coding import Method
from bytegolf.compression.context import code_bits
from bytegolf.compression.grid import AbsMax, Grid, LeastSquares, StandardDeviations
from bytegolf.compression.ternary import Ternary
from bytegolf.errors import ArtifactError

FROZEN = "558d2a1d9b5759e510ecff19acb5d9e7ce87eb9ac015fa352c4691c6631cb805"


def _matrix(rows: int, columns: int, limit: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(size=(rows, 1)) * 0.2 + random.normal(size=(1, columns)) * 0.7)
    values = random.standard_normal((rows, columns)) * spread * limit / 6
    return np.clip(np.round(values), -limit, limit).astype(np.int8)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bits=st.integers(2, 8),
    data=st.data(),
)
def test_any_integers_come_back(shape: tuple[int, int], bits: int, data: st.DataObject) -> None:
    limit = 2 ** (bits - 1) - 1
    ints = data.draw(arrays.arrays(np.int8, shape, elements=st.integers(-limit, limit)))
    assert np.array_equal(coding.decode_ints(coding.encode_ints(ints, limit), shape, limit), ints)


@pytest.mark.parametrize("bits", range(2, 9))
def test_realistic_matrices_come_back_and_cost_what_was_estimated(bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    ints = _matrix(700, 300, limit)
    coded = coding.encode_ints(ints, limit)
    assert coded[0] == Method.CONTEXT
    assert np.array_equal(coding.decode_ints(coded, ints.shape, limit), ints)
    assert len(coded) * 8 == pytest.approx(code_bits(ints, limit), rel=0.002)


def test_identically_distributed_integers_take_their_entropy() -> None:
    ints = np.clip(np.round(np.random.default_rng(0).normal(size=(2000, 256)) * 2.4), -31, 31).astype(np.int8)
    share = np.bincount(ints.reshape(-1).astype(int) + 31) / ints.size
    entropy_bytes = -(share[share > 0] * np.log2(share[share > 0])).sum() * ints.size / 8
    assert len(coding.encode_ints(ints, 31)) < entropy_bytes * 1.003


def test_columns_of_different_size_take_less_than_brotli_needs() -> None:
    ints = _matrix(1000, 256, 31)
    assert len(coding.encode_ints(ints, 31)) < 0.93 * len(brotli.compress(ints.tobytes()))


def test_a_repeated_pattern_goes_to_brotli() -> None:
    ints = np.tile(_matrix(1, 300, 127), (500, 1))
    assert len(coding.encode_ints(ints, 127)) < 2000
    assert np.array_equal(coding.decode_ints(coding.encode_ints(ints, 127), ints.shape, 127), ints)


def test_a_matrix_is_coded_transposed_where_that_is_smaller() -> None:
    """The columns' sizes are learned from all rows before, a row's own is told in half octaves only."""
    ints = np.ascontiguousarray(_matrix(600, 64, 31, seed=3).T)
    coded = coding.encode_ints(ints, 31)
    assert coded[:2] == bytes([Method.TRANSPOSED, Method.CONTEXT])
    assert len(coded) < 1 + len(ranges.encode(ints, 31))
    assert np.array_equal(coding.decode_ints(coded, ints.shape, 31), ints)


def _ternary(zeros: float, shape: tuple[int, int]) -> np.ndarray:
    shares = [(1 - zeros) / 2, zeros, (1 - zeros) / 2]
    return np.random.default_rng(0).choice([-1, 0, 1], shape, p=shares).astype(np.int8)


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("shape", [(256, 512), (1000, 130), (60, 4000)])
def test_independent_ternary_integers_take_their_entropy(zeros: float, shape: tuple[int, int]) -> None:
    ints = _ternary(zeros, shape)
    share = np.bincount(ints.reshape(-1) + 1, minlength=3) / ints.size
    entropy_bytes = -(share[share > 0] * np.log2(share[share > 0])).sum() * ints.size / 8
    coded = coding.encode_ints(ints, 1)
    assert len(coded) < 1.01 * entropy_bytes
    assert np.array_equal(coding.decode_ints(coded, shape, 1), ints)


def test_independent_signs_take_a_bit_each() -> None:
    ints = _ternary(0.0, (512, 640))
    coded = coding.encode_ints(ints, 1)
    assert coded[0] == Method.SIGNS
    assert len(coded) == 2 + ints.size // 8


@pytest.mark.parametrize(("values", "bits"), [((-1, 1), 0.75), ((-1, 0, 1), 1.25)])
def test_rows_that_resemble_one_another_take_less_than_packing_needs(
    values: tuple[int, ...], bits: float
) -> None:
    """Rows around eight directions, as those of an embedding: three in ten integers are drawn anew."""
    random = np.random.default_rng(0)
    directions = random.choice(values, (8, 256))
    ints = directions[random.integers(8, size=3000)]
    ints = np.where(random.random(ints.shape) < 0.3, random.choice(values, ints.shape), ints).astype(np.int8)
    coded = coding.encode_ints(ints, 1)
    assert coded[0] == Method.CLUSTERED
    packed = packing.pack_trits(ints.reshape(-1)) if 0 in values else packing.pack_signs(ints.reshape(-1))
    assert len(coded) < 0.9 * len(compressors.squeeze(packed))
    assert len(coded) * 8 < bits * ints.size
    assert np.array_equal(coding.decode_ints(coded, ints.shape, 1), ints)


@settings(max_examples=60, deadline=None)
@given(shape=arrays.array_shapes(min_dims=0, max_dims=4, max_side=9), data=st.data())
def test_any_float8_patterns_come_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    patterns = st.integers(0, 255).filter(lambda pattern: pattern & 0x7F != 0x7F)
    values = data.draw(arrays.arrays(np.uint8, shape, elements=patterns))
    assert np.array_equal(coding.decode_float8(coding.encode_float8(values), shape), values)


def test_a_float8_that_is_no_number_is_refused() -> None:
    coded = coding.encode_ints(np.array([[3, 127]], dtype=np.int8), 127)
    with pytest.raises(ArtifactError, match="NaN"):
        coding.decode_float8(coded, (2,))


def test_large_float_arrays_come_back_and_use_what_their_bytes_share() -> None:
    values = (np.random.default_rng(0).normal(size=(300, 400)) / 20).astype(np.float16)
    coded = coding.encode_floats(values)
    assert len(coded) < 0.93 * values.nbytes
    assert np.array_equal(coding.decode_floats(coded, values.shape, np.float16), values)


@pytest.mark.parametrize("method", [Method.LZMA, Method.SHUFFLED_LZMA])
def test_floats_under_lzma_are_read(method: Method) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    payload = coding._float_payload(method, values.tobytes(), 4)
    assert np.array_equal(coding.decode_floats(bytes([method]) + payload, (4, 6), np.float32), values)
    with pytest.raises(ArtifactError, match="100 bytes"):
        coding.decode_floats(bytes([method]) + payload, (5, 5), np.float32)


def test_the_format_is_frozen() -> None:
    """Old files must stay readable: the model's arithmetic and constriction's must not change."""
    ints = ((np.arange(24 * 16).reshape(24, 16) * 7919) % 31 - 15).astype(np.int8)
    payload = ranges.encode(ints, 15)
    assert hashlib.sha256(payload).hexdigest() == FROZEN
    assert np.array_equal(coding.decode_ints(bytes([Method.CONTEXT]) + payload, (24, 16), 15), ints)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32]),
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=12),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_any_floats_come_back(values: np.ndarray) -> None:
    decoded = coding.decode_floats(coding.encode_floats(values), values.shape, values.dtype.type)
    assert decoded.dtype == values.dtype
    assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("clip", [AbsMax(), StandardDeviations(12.85), LeastSquares()], ids=repr)
def test_scales_of_a_grid_come_back_in_less_than_a_byte_each(clip) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 0.03 * torch.exp(0.3 * torch.randn(600, 1, generator=generator))
    weight = rows * torch.randn(600, 128, generator=generator)
    scales = Grid(6, clip).quantize(weight).scales.numpy()
    coded = coding.encode_scales(scales)
    assert np.array_equal(coding.decode_scales(coded, (600,)), scales)
    assert len(coded) < 500


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float16,
        st.integers(1, 70) | st.tuples(st.integers(1, 40), st.integers(1, 5)),
        elements=st.floats(2.0**-24, 65504, width=16),
    )
)
def test_any_positive_scales_come_back(scales: np.ndarray) -> None:
    assert np.array_equal(coding.decode_scales(coding.encode_scales(scales), scales.shape), scales)


@pytest.mark.parametrize("columns", [128, 129, 700])
def test_scales_of_groups_come_back_in_less_than_a_byte_each(columns: int) -> None:
    weight = torch.randn(300, columns, generator=torch.Generator().manual_seed(0))
    scales = Ternary(128).quantize(weight).scales.numpy()
    coded = coding.encode_scales(scales)
    assert np.array_equal(coding.decode_scales(coded, scales.shape), scales)
    assert len(coded) < 20 + 0.75 * scales.size


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_not_positive_numbers_are_refused(bad: float) -> None:
    data = bytes([Method.RAW]) + np.array([1.0, bad], dtype=np.float16).tobytes()
    with pytest.raises(ArtifactError, match=r"positive|NaN"):
        coding.decode_scales(data, (2,))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x09abc", "method"),
        (b"\x00abc", "method"),
        (b"\x03abc", "words"),
        (bytes([Method.BROTLI]) + b"junk", "damaged|hold"),
        (bytes([Method.BROTLI]) + brotli.compress(bytes(63)), "64 bytes"),
        (bytes([Method.BROTLI]) + brotli.compress(bytes(65)), "64 bytes"),
        (bytes([Method.BROTLI]) + brotli.compress(bytes(64)) + b"x", "damaged|hold"),
        (bytes([Method.BROTLI]) + brotli.compress(bytes([200]) * 64), "beyond"),
        (bytes([Method.CONTEXT]) + bytes(4000), "longer|damaged"),
        (bytes([Method.LZMA]) + b"junk", "damaged|hold"),
        (bytes([Method.LZMA]) + compressors.compress_lzma(bytes([200]) * 64), "beyond"),
        (bytes([Method.CLUSTERED]), "0 clusters of 8 rows; 1 to 1"),
        (bytes([Method.CLUSTERED, 2]), "2 clusters of 8 rows; 1 to 1"),
        (bytes([Method.CLUSTERED, 1, 0]), "words"),
        (bytes([Method.TRANSPOSED]), "empty"),
        (bytes([Method.TRANSPOSED, Method.TRANSPOSED]), "transposed"),
        (bytes([Method.TRANSPOSED, Method.RAW]) + bytes(64), "transposed"),
        (bytes([Method.TRITS, 0]) + bytes(13), "method 10"),
        (bytes([Method.MASK]), "method 11"),
        (bytes([Method.SIGNS, 0]) + bytes(8), "method 12"),
    ],
)
def test_bad_integer_streams_are_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        coding.decode_ints(data, (8, 8), 31)


def test_more_rows_than_a_row_may_have_integers_are_not_decoded_transposed() -> None:
    data = bytes([Method.TRANSPOSED, Method.CONTEXT])
    with pytest.raises(ArtifactError, match="1048577 rows"):
        coding.decode_ints(data, ((1 << 20) + 1, 1), 7)


def test_noise_decodes_to_integers_on_the_grid_or_is_refused() -> None:
    random = np.random.default_rng(0)
    for _ in range(1500):
        data = bytes([Method.CONTEXT]) + random.bytes(4 * int(random.integers(0, 30)))
        try:
            ints = coding.decode_ints(data, (9, 7), 7)
        except ArtifactError:
            continue
        assert np.abs(ints).max() <= 7


def test_a_stream_that_expands_beyond_its_size_is_not_unpacked() -> None:
    bomb = brotli.compress(bytes(1 << 28), quality=1)
    assert len(bomb) < 100_000
    with pytest.raises(ArtifactError, match="1000 bytes"):
        compressors.decompress(bomb, 1000)
