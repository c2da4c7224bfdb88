"""Documents to tokens, by one process or several, in order."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.text.documents import Document
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.shard_files import TokenizedDocument
from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes

# Characters handed to a worker at once: enough to drown the cost of handing over, little enough to spread.
_CHUNK_CHARACTERS = 2_000_000

# A worker process builds its tokenizer once.
_worker_tokenizer: Tokenizer | None = None


def tokenize(
    documents: Iterable[Document], tokenizer: Tokenizer, processes: int
) -> Iterator[TokenizedDocument]:
    """The documents as uint16 tokens with bos in front, in order.

    `processes` > 1 spreads the work; at most two chunks a process wait in memory.
    """
    chunks = _chunks(documents)
    if processes <= 1:
        for texts in chunks:
            yield from _unpack(*_encode(texts, tokenizer))
        return
    pending: deque[Future[tuple[bytes, list[int], list[int]]]] = deque()
    # Spawned, because forking a process that runs torch's threads can deadlock.
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.to_bytes(),),
    )
    try:
        for texts in chunks:
            pending.append(pool.submit(_encode_in_worker, texts))
            if len(pending) > 2 * processes:
                yield from _unpack(*pending.popleft().result())
        while pending:
            yield from _unpack(*pending.popleft().result())
    except BrokenProcessPool as error:
        raise ShardError(
            f"a tokenizing process died, probably for lack of memory; use fewer than {processes} processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(documents: Iterable[Document]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for document in documents:
        chunk.append(document.text)
        characters += len(document.text)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode(texts: list[str], tokenizer: Tokenizer) -> tuple[bytes, list[int], list[int]]:
    bos = np.array([tokenizer.bos], dtype=np.uint16)
    parts, lengths, text_bytes = [], [], []
    for text in texts:
        ids = tokenizer.encode(text)
        count = int(byte_counts(tokenizer, ids, tokenizer.bos).sum())
        assert not tokenizer.lossless or count == len(text.encode()), "ledger and text disagree"
        parts += [bos, ids.astype(np.uint16)]
        lengths.append(len(ids) + 1)
        text_bytes.append(count)
    return np.concatenate(parts).tobytes(), lengths, text_bytes


def _unpack(tokens: bytes, lengths: list[int], text_bytes: list[int]) -> Iterator[TokenizedDocument]:
    flat = np.frombuffer(tokens, dtype=np.uint16)
    position = 0
    for length, count in zip(lengths, text_bytes, strict=True):
        yield TokenizedDocument(flat[position : position + length], count)
        position += length


def _start_worker(table: bytes) -> None:
    global _worker_tokenizer
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_tokenizer = tokenizer_from_bytes(table)


def _encode_in_worker(texts: list[str]) -> tuple[bytes, list[int], list[int]]:
    assert _worker_tokenizer is not None
    return _encode(texts, _worker_tokenizer)
