"""Work on the parts of a text by several processes, in order."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bytegolf.errors import TextError

Part = TypeVar("Part")
Result = TypeVar("Result")

#: Below this much text processes cost more than they save.
_PARALLEL_CHARACTERS = 20_000_000


def processes_for(characters: int) -> int:
    """How many processes work on so much text: all cores, or just this one."""
    return (os.cpu_count() or 1) if characters > _PARALLEL_CHARACTERS else 1


def spread(
    work: Callable[[Part], Result],
    parts: Iterable[Part],
    processes: int,
    *,
    begin: Callable[..., None] | None = None,
    told: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """`work` on each part, results in order; at most two parts a process wait in memory.

    begin, told: what each process does once before, and with which arguments. With one process, which is this
    one, nothing is begun. Raises `TextError` if a process dies.
    """
    if processes <= 1:
        yield from map(work, parts)
        return
    pending: deque[Future[Result]] = deque()
    # Spawned, because forking a process that runs torch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(begin, told))
    try:
        for part in parts:
            pending.append(pool.submit(work, part))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise TextError(
            f"one of {processes} processes that work on the text died, probably for lack of "
            "memory; free some, or give less text"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None] | None, told: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if begin is not None:
        begin(*told)
