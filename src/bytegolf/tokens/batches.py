"""Batches of packed documents: the same for any number of ranks, and a pure function of the step."""

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Consecutive tokens of packed documents. B rows, T tokens a row."""

    ids_BT: Tensor
    """int64: the inputs."""
    targets_BT: Tensor
    """int64: the token after each input; that of a row's last input is the next row's first."""
    starts_BT: Tensor
    """bool: a document begins at this input."""
    bytes: int
    """Bytes of text that the targets stand for."""


@dataclass(frozen=True)
class _Epoch:
    number: int
    starts: np.ndarray
    """int64 (documents,): where each document stands in the store, in this epoch's order."""
    bounds: np.ndarray
    """int64 (documents + 1,): where each document stands in the epoch, and the epoch's end."""


class PackedBatches:
    """Batches from a store of documents.

    Epoch e walks all documents once, in an order drawn from (seed, e). The epochs, one behind another, are
    one endless stream; global batch s is its span of `rows` · `length` tokens from s · `rows` · `length` on,
    cut into `rows` rows, with one token more for the last target. Rank r of `world` takes the r-th equal
    share of the rows.

    Raises `RecipeError` if the rows cannot be shared equally.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        rows: int,
        length: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if rows < 1 or length < 1:
            raise RecipeError(f"a batch of {rows} rows of {length} tokens is empty; both must be at least 1")
        if rows % world:
            nearest = max(world, round(rows / world) * world)
            raise RecipeError(f"{rows} rows cannot be shared by {world} processes; use {nearest} rows")
        assert 0 <= rank < world
        assert store.tokens > 0, "a store without tokens has no batches"
        self._store, self._tokenizer, self._seed = store, tokenizer, seed
        self._rows, self._length = rows // world, length
        self._global_tokens = rows * length
        self._first = rank * self._rows * length
        self._lengths = store.lengths
        self._epochs: dict[int, _Epoch] = {}

    def batch(self, step: int) -> Batch:
        """This rank's rows of global batch `step`: ids (rows / world, length). A pure function of `step`."""
        assert step >= 0
        tokens = self._rows * self._length
        stream = self._read(step * self._global_tokens + self._first, tokens + 1)
        ids = torch.from_numpy(stream.astype(np.int64))
        inputs_BT = ids[:-1].view(self._rows, self._length)
        return Batch(
            ids_BT=inputs_BT,
            targets_BT=ids[1:].view(self._rows, self._length),
            starts_BT=inputs_BT == self._tokenizer.bos,
            bytes=int(byte_counts(self._tokenizer, stream[1:], int(stream[0])).sum(dtype=np.int64)),
        )

    def prefetch(self, first_step: int, *, depth: int = 4, pin: bool = False) -> Generator[Batch, None, None]:
        """Batches from `first_step` on, made up to `depth` ahead by a thread; endless.

        `pin` puts them into page-locked memory for asynchronous copies to a GPU. An error of the thread is
        raised here. Closing the generator ends the thread.
        """
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        closed = threading.Event()

        def produce() -> None:
            step = first_step
            while not closed.is_set():
                item: Batch | BaseException
                try:
                    item = _pinned(self.batch(step)) if pin else self.batch(step)
                except BaseException as error:  # it is raised again by the consumer
                    item = error
                while not closed.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if isinstance(item, BaseException):
                    return
                step += 1

        thread = threading.Thread(target=produce, name="batches", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            thread.join()

    def _read(self, start: int, count: int) -> np.ndarray:
        out = np.empty(count, dtype=np.uint16)
        done = 0
        while done < count:
            epoch = self._epoch((start + done) // self._store.tokens)
            position = (start + done) % self._store.tokens
            size = min(count - done, self._store.tokens - position)
            self._read_epoch(epoch, position, out[done : done + size])
            done += size
        return out

    def _read_epoch(self, epoch: _Epoch, position: int, out: np.ndarray) -> None:
        first = int(np.searchsorted(epoch.bounds, position, side="right")) - 1
        last = int(np.searchsorted(epoch.bounds, position + len(out), side="left"))
        starts = epoch.starts[first:last]
        begins = np.maximum(epoch.bounds[first:last] - position, 0)
        ends = np.minimum(epoch.bounds[first + 1 : last + 1] - position, len(out))
        sources = starts + np.maximum(position - epoch.bounds[first:last], 0)
        for begin, end, source in zip(begins.tolist(), ends.tolist(), sources.tolist(), strict=True):
            self._store.copy(source, out[begin:end])

    def _epoch(self, number: int) -> _Epoch:
        # Only a memory of what (seed, number) already determine; steps mostly stay within an epoch.
        known = self._epochs.get(number)
        if known is not None:
            return known
        order = np.random.default_rng([self._seed, number]).permutation(self._store.documents)
        epoch = _Epoch(
            number=number,
            starts=self._store.starts[order],
            bounds=np.concatenate([[0], np.cumsum(self._lengths[order])]),
        )
        self._epochs = {number: epoch, **{n: e for n, e in self._epochs.items() if n == number - 1}}
        return epoch


def _pinned(batch: Batch) -> Batch:
    return Batch(
        batch.ids_BT.pin_memory(), batch.targets_BT.pin_memory(), batch.starts_BT.pin_memory(), batch.bytes
    )
