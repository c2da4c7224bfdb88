"""Batches: pure in the step, the same for any number of ranks, every token once an epoch."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
BOS = TOKENIZER.bos


def store_of(lengths: list[int], cuts: list[int]) -> TokenStore:
    """Documents of these many tokens with different contents, cut into shards anywhere."""
    random = np.random.default_rng(sum(lengths))
    documents = [np.concatenate([[BOS], random.integers(0, 256, n)]) for n in lengths]
    stream = np.concatenate(documents).astype(np.uint16)
    borders = sorted({min(cut, len(stream)) for cut in cuts} - {0, len(stream)})
    return TokenStore(np.split(stream, borders), bos=BOS, text_bytes=sum(lengths))


stores = st.builds(
    store_of,
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.lists(st.integers(0, 400), max_size=3),
)


def flat(batches: PackedBatches, steps: int) -> np.ndarray:
    return torch.cat([batches.batch(step).ids_BT.flatten() for step in range(steps)]).numpy()


@settings(max_examples=60, deadline=None)
@given(store=stores, length=st.integers(1, 20), seed=st.integers(0, 5), step=st.integers(0, 30))
def test_slices_of_the_ranks_make_the_global_batch(store, length, seed, step):
    whole = PackedBatches(store, TOKENIZER, rows=8, length=length, seed=seed).batch(step)
    for world in (1, 2, 4, 8):
        parts = [
            PackedBatches(store, TOKENIZER, rows=8, length=length, seed=seed, rank=rank, world=world).batch(
                step
            )
            for rank in range(world)
        ]
        assert torch.equal(torch.cat([part.ids_BT for part in parts]), whole.ids_BT)
        assert torch.equal(torch.cat([part.targets_BT for part in parts]), whole.targets_BT)
        assert torch.equal(torch.cat([part.starts_BT for part in parts]), whole.starts_BT)
        assert sum(part.bytes for part in parts) == whole.bytes


@settings(max_examples=60, deadline=None)
@given(store=stores, seed=st.integers(0, 5), steps=st.lists(st.integers(0, 40), min_size=2, max_size=6))
def test_a_batch_depends_on_nothing_but_its_step(store, seed, steps):
    used = PackedBatches(store, TOKENIZER, rows=2, length=7, seed=seed)
    for step in steps:
        fresh = PackedBatches(store, TOKENIZER, rows=2, length=7, seed=seed)
        assert torch.equal(used.batch(step).ids_BT, fresh.batch(step).ids_BT)


@settings(max_examples=60, deadline=None)
@given(store=stores, seed=st.integers(0, 5), length=st.integers(1, 50))
def test_every_document_comes_whole_and_once_an_epoch(store, seed, length):
    batches = PackedBatches(store, TOKENIZER, rows=2, length=length, seed=seed)
    stream = flat(batches, -(-3 * store.tokens // (2 * length)))
    expected = sorted(part.tolist() for part in np.split(store.read(0, store.tokens), store.starts[1:]))
    for epoch in range(3):
        walked = stream[epoch * store.tokens : (epoch + 1) * store.tokens]
        assert walked[0] == BOS
        documents = np.split(walked, np.flatnonzero(walked == BOS)[1:])
        assert sorted(part.tolist() for part in documents) == expected


@settings(max_examples=60, deadline=None)
@given(store=stores, seed=st.integers(0, 5), step=st.integers(0, 20))
def test_targets_follow_inputs_and_starts_mark_exactly_bos(store, seed, step):
    batches = PackedBatches(store, TOKENIZER, rows=3, length=5, seed=seed)
    batch, after = batches.batch(step), batches.batch(step + 1)
    inputs, targets = batch.ids_BT.flatten(), batch.targets_BT.flatten()
    assert torch.equal(targets[:-1], inputs[1:])
    assert targets[-1] == after.ids_BT[0, 0]
    assert torch.equal(batch.starts_BT, batch.ids_BT == BOS)
    assert batch.bytes == byte_counts(TOKENIZER, targets.numpy(), int(inputs[0])).sum()
    assert batch.ids_BT.dtype == batch.targets_BT.dtype == torch.int64


def test_order_differs_between_epochs_and_seeds():
    store = store_of(list(range(1, 40)), [])
    orders = []
    for seed in (0, 1):
        stream = flat(PackedBatches(store, TOKENIZER, rows=1, length=store.tokens, seed=seed), 2)
        orders += [stream[: store.tokens].tolist(), stream[store.tokens :].tolist()]
    assert len(set(map(tuple, orders))) == 4


def test_prefetched_batches_are_the_batches():
    batches = PackedBatches(store_of([30] * 9, []), TOKENIZER, rows=2, length=8, seed=3)
    ahead = batches.prefetch(5, depth=2)
    for step, batch in zip(range(5, 40), ahead, strict=False):
        assert torch.equal(batch.ids_BT, batches.batch(step).ids_BT)
        assert batch.bytes == batches.batch(step).bytes
    ahead.close()


def test_closing_the_prefetch_ends_its_thread():
    ahead = PackedBatches(store_of([30], []), TOKENIZER, rows=1, length=4, seed=0).prefetch(0, depth=1)
    next(ahead)
    assert "batches" in [thread.name for thread in threading.enumerate()]
    ahead.close()
    assert "batches" not in [thread.name for thread in threading.enumerate()]


def test_an_error_of_the_prefetch_reaches_the_consumer(monkeypatch):
    batches = PackedBatches(store_of([30], []), TOKENIZER, rows=1, length=4, seed=0)
    made = batches.batch

    def failing(step):
        if step == 2:
            raise OSError("the disk is gone")
        return made(step)

    monkeypatch.setattr(batches, "batch", failing)
    ahead = batches.prefetch(0)
    next(ahead)
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_rows_that_cannot_be_shared_are_refused_with_a_number_that_can():
    with pytest.raises(RecipeError, match="6 rows cannot be shared by 4 processes; use 8 rows"):
        PackedBatches(store_of([9], []), TOKENIZER, rows=6, length=4, seed=0, world=4)


@pytest.mark.parametrize(("rows", "length"), [(0, 4), (4, 0)])
def test_empty_batches_are_refused(rows, length):
    with pytest.raises(RecipeError, match="must be at least 1"):
        PackedBatches(store_of([9], []), TOKENIZER, rows=rows, length=length, seed=0)
