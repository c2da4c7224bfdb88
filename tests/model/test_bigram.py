"""Hashed bigrams: the published hashes, document starts, and factors that are never both zero."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.model.bigram import Bigram, BigramSum, BigramXor
from bytegolf.model.stream import Stream

NO_START = torch.zeros(1, 3, dtype=torch.bool)
EVERY_FORM = pytest.mark.parametrize("spec", [BigramSum(16, 4), BigramXor(16, 4)])


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        (BigramSum(), (7 * 92_821 + 1000) % 4096),
        (BigramSum(buckets=10_240, multiplier=1_000_003), (7 * 1_000_003 + 1000) % 10_240),
        (BigramXor(buckets=2048), ((36_313 * 1000) ^ (27_191 * 7)) % 2047),
    ],
)
def test_a_pair_has_the_published_row(spec: Bigram, row: int) -> None:
    assert spec.bucket(torch.tensor([[1000]]), torch.tensor([[7]])).tolist() == [[row]]


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 59_000), st.integers(-1, 59_000)), min_size=1, max_size=20),
    buckets=st.integers(2, 20_000),
)
def test_rows_lie_in_the_table_and_only_document_starts_have_the_last_one(
    pairs: list[tuple[int, int]], buckets: int
) -> None:
    ids, previous = torch.tensor(pairs).T
    by_sum = BigramSum(buckets).bucket(ids, previous)
    by_xor = BigramXor(buckets).bucket(ids, previous)
    assert ((by_sum >= 0) & (by_sum < buckets)).all()
    assert torch.equal(by_xor == buckets - 1, previous < 0)
    assert (by_xor >= 0).all()
    # The original computes in 32 bits, which hold these vocabularies.
    cur, prev = ids.numpy().astype(np.int32), previous.numpy().astype(np.int32)
    original = np.bitwise_xor(np.int32(36_313) * cur, np.int32(27_191) * prev) % np.int32(buckets - 1)
    assert (by_xor.numpy() == original)[prev >= 0].all()
    zero = torch.zeros_like(ids)
    assert torch.equal(by_sum[previous < 0], BigramSum(buckets).bucket(ids, zero)[previous < 0])


@EVERY_FORM
@torch.no_grad()
def test_a_document_start_has_no_previous_whatever_stands_before_it(spec: Bigram) -> None:
    torch.manual_seed(0)
    layer = spec.build(6)
    for parameter in layer.parameters():
        parameter.normal_()
    starts = torch.tensor([[False, False, True, False]])
    one = layer(torch.tensor([[3, 4, 5, 6]]), Stream.of(starts), torch.float32)
    other = layer(torch.tensor([[8, 9, 5, 6]]), Stream.of(starts), torch.float32)
    alone = layer(torch.tensor([[5, 6]]), Stream.of(NO_START[:, :2]), torch.float32)
    assert torch.equal(one[:, 2:], other[:, 2:])
    assert torch.equal(one[:, 2:], alone)
    # Id 0 before a token is a token, unlike none, where the table tells them apart.
    after_zero = layer(torch.tensor([[0, 5]]), Stream.of(NO_START[:, :2]), torch.float32)
    assert torch.equal(after_zero[:, 1], alone[:, 0]) == isinstance(spec, BigramSum)


@EVERY_FORM
def test_it_starts_at_zero_and_every_factor_learns(spec: Bigram) -> None:
    torch.manual_seed(0)
    layer = spec.build(6)
    ids, stream = torch.tensor([[3, 1, 2]]), Stream.of(NO_START)
    assert not layer(ids, stream, torch.float32).any()
    moved = set()
    for _ in range(3):
        layer.zero_grad()
        (layer(ids, stream, torch.float32) - 1.0).square().sum().backward()
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                assert parameter.grad is not None
                if parameter.grad.any():
                    moved.add(name)
                parameter -= 0.1 * parameter.grad
    assert moved == {name for name, _ in layer.named_parameters()}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BigramSum(buckets=1), "buckets=1"),
        (lambda: BigramXor(width=0), "width=0 of a bigram table"),
        (lambda: BigramSum(deviation=0.0), "deviation=0.0; table and projection both at zero never learn"),
        (lambda: BigramXor(scale=0.0), "scale=0.0; table and scale both at zero never learn"),
        (lambda: BigramSum(multiplier=0), "multiplier=0"),
    ],
)
def test_a_bigram_that_cannot_work_is_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message):
        build()
