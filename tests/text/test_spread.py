"""Several processes give what one gives, in the same order."""

import os
from collections.abc import Iterator

import pytest

from bytegolf.errors import TextError
from bytegolf.text import copies
from bytegolf.text.documents import Document
from bytegolf.text.spread import processes_for, spread

_begun: list[int] = []


def squared(number: int) -> int:
    return number * number


def begin(number: int, more: int) -> None:
    _begun.append(number + more)


def with_what_was_begun(number: int) -> tuple[int, list[int]]:
    return number, _begun


def die(number: int) -> int:
    os._exit(9)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_however_many_work(processes: int) -> None:
    assert list(spread(squared, range(40), processes)) == [number * number for number in range(40)]
    assert list(spread(squared, [], processes)) == []


def test_each_process_begins_once() -> None:
    found = list(spread(with_what_was_begun, range(12), 2, begin=begin, told=(3, 4)))
    assert found == [(number, [7]) for number in range(12)]
    assert _begun == []


def test_few_parts_wait_in_memory() -> None:
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = spread(squared, parts(), 2)
    assert next(results) == 0
    assert len(taken) == 2 * 2 + 1
    results.close()


def test_a_process_that_dies_is_an_error_of_one_line() -> None:
    with pytest.raises(TextError, match="one of 2 processes that work on the text died"):
        list(spread(die, range(3), 2))


def test_little_text_stays_here() -> None:
    assert processes_for(20_000_000) == 1
    assert processes_for(20_000_001) == (os.cpu_count() or 1)


def test_copies_are_the_same_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number * 7919 % 10007}" for number in range(12_000)]
    held_out = [Document(" ".join(words[:3000]), "a"), Document(" ".join(words[3000:6000]), "b")]
    training = [
        Document(" ".join(words[start : start + 900]), str(start)) for start in range(2700, 11_000, 900)
    ]
    alone = copies.copies(training, held_out, 0.1)
    monkeypatch.setattr(copies, "processes_for", lambda characters: 2)
    # A chunk each, so that several processes have something to do.
    monkeypatch.setattr("bytegolf.text.ngrams._CHUNK_BYTES", 1)
    assert copies.copies(training, held_out, 0.1) == alone
    assert 0 < len(alone) < len(training)
