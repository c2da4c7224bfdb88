"""Packed ternary and binary integers come back from any shape, and damage is refused or harmless."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bytegolf.artifact import coding, packing
from bytegolf.artifact.coding import Method
from bytegolf.artifact.compressors import compress, squeeze
from bytegolf.errors import ArtifactError

TERNARY = arrays.arrays(np.int8, st.integers(0, 90), elements=st.sampled_from([-1, 0, 1]))
BINARY = arrays.arrays(np.int8, st.integers(0, 90), elements=st.sampled_from([-1, 1]))


def _masked(ints: np.ndarray) -> bytes:
    return packing.join_mask(*map(squeeze, packing.pack_mask(ints)))


@settings(max_examples=80, deadline=None)
@given(ints=TERNARY)
def test_trits_and_masks_come_back(ints: np.ndarray) -> None:
    packed = packing.pack_trits(ints)
    assert len(packed) == -(-len(ints) // 5)
    for stored in (squeeze(packed), packing.plain(packed)):
        assert np.array_equal(packing.unpack_trits(stored, len(ints)), ints)
    assert np.array_equal(packing.unpack_mask(_masked(ints), len(ints)), ints)


@settings(max_examples=60, deadline=None)
@given(ints=BINARY)
def test_signs_come_back(ints: np.ndarray) -> None:
    assert np.array_equal(packing.unpack_signs(squeeze(packing.pack_signs(ints)), len(ints)), ints)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    values=st.sampled_from([(0,), (1,), (-1, 1), (-1, 0, 1)]),
    data=st.data(),
)
def test_any_ternary_matrix_comes_back(shape: tuple[int, int], values: tuple[int, ...], data) -> None:
    ints = data.draw(arrays.arrays(np.int8, shape, elements=st.sampled_from(values)))
    coded = coding.encode_ints(ints, 1)
    assert len(coded) <= 2 + -(-ints.size // 5)
    assert np.array_equal(coding.decode_ints(coded, shape, 1), ints)


@pytest.mark.parametrize(
    ("method", "payload", "words"),
    [
        (Method.TRITS, b"", "empty"),
        (Method.TRITS, b"\x03" + bytes(13), "compressor 3"),
        (Method.TRITS, b"\x00" + bytes(12), "12 bytes stand where 13"),
        (Method.TRITS, b"\x00" + bytes(14), "14 bytes stand where 13"),
        (Method.TRITS, b"\x00" + bytes(12) + b"\xf3", "is 243"),
        (Method.TRITS, b"\x01" + compress(bytes(1 << 20)), "13 bytes"),
        (Method.TRITS, b"\x02junk", "damaged|hold"),
        (Method.MASK, b"", "empty"),
        (Method.MASK, b"\xff\xff\xff\xff" + bytes(20), "stand where 8"),
        (Method.MASK, b"\x09\0\0\0\0" + b"\xff" * 8, "empty"),
        (Method.MASK, b"\x09\0\0\0\0" + b"\xff" * 8 + bytes(8), "7 bytes stand where 8"),
        (Method.MASK, b"\x09\0\0\0\0" + bytes(8) + b"\0\0", "1 bytes stand where 0"),
        (Method.SIGNS, b"\0" + bytes(9), "9 bytes stand where 8"),
    ],
)
def test_damaged_packings_are_refused(method: Method, payload: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        coding.decode_ints(bytes([method]) + payload, (8, 8), 1)


def test_noise_unpacks_to_the_grid_or_is_refused() -> None:
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        kind = int(random.choice([Method.TRITS, Method.MASK, Method.SIGNS]))
        start = {Method.MASK: b"\x09\0\0\0\0"}.get(Method(kind), b"\0")
        data = bytes([kind]) + start + random.bytes(int(random.integers(0, 20)))
        try:
            ints = coding.decode_ints(data, (9, 7), 1)
        except ArtifactError:
            refused += 1
            continue
        assert ints.shape == (9, 7)
        assert np.abs(ints).max() <= 1
    assert refused < 1500
