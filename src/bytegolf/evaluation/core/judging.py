"""Items asked of a model, several in one forward pass, and which of its answers are right.

Shapes: B rows, L ids of the longest, M places whose predictions count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.evaluation.core.bundle import Item
from bytegolf.evaluation.core.prompts import Row, prompts, rows, shots_of
from bytegolf.evaluation.core.reader import Reader
from bytegolf.evaluation.core.tasks import Task

#: Items whose rows are sorted by length before they are read together.
_TOGETHER = 64


@dataclass(frozen=True)
class Answer:
    """What became of an item. index: its place in the draw. option: the one that was chosen, if any were.

    nats: the mean −ln p a token of each row that was read.
    """

    index: int
    correct: bool
    option: int | None
    nats: tuple[float, ...]


def answers(
    reader: Reader, task: Task, items: Sequence[Item], indexes: Sequence[int]
) -> Iterator[list[Answer]]:
    """Asks `items[i]` for each index and gives the answers as they come, in this order."""
    for first in range(0, len(indexes), _TOGETHER):
        together = indexes[first : first + _TOGETHER]
        asked = [_rows_of(reader, task, items, index) for index in together]
        read = _read(reader, [row for item_rows in asked for row in item_rows])
        yield [
            judged(task, items[index], index, [next(read) for _ in item_rows])
            for index, item_rows in zip(together, asked, strict=True)
        ]


def judged(task: Task, item: Item, index: int, read: Sequence["Judged"]) -> Answer:
    """The answer to one item from what its rows gave."""
    nats = tuple(row.mean_nats for row in read)
    if task.kind == "language_modeling":
        return Answer(index, read[0].all_likeliest, None, nats)
    # The first of equals, as `min` has it, also where a row has nothing to judge and its mean is no number.
    option = min(range(len(nats)), key=nats.__getitem__)
    return Answer(index, option == item["gold"], option, nats)


@dataclass(frozen=True)
class Judged:
    """A row's mean −ln p of the ids that are judged, and whether each was the likeliest."""

    mean_nats: float
    all_likeliest: bool


def _rows_of(reader: Reader, task: Task, items: Sequence[Item], index: int) -> list[Row]:
    texts = prompts(task, items[index], shots_of(task, items, index))
    return rows(task, texts, reader.encode, reader.context)


def _read(reader: Reader, asked: Sequence[Row]) -> Iterator[Judged]:
    """What each row gives, in order; read in passes of rows of about one length."""
    order = sorted(range(len(asked)), key=lambda number: len(asked[number].ids), reverse=True)
    found: dict[int, Judged] = {}
    for numbers in _passes(asked, order, reader.tokens_per_pass):
        made = _one_pass(reader, [asked[number] for number in numbers])
        found.update(zip(numbers, made, strict=True))
    return (found[number] for number in range(len(asked)))


def _passes(asked: Sequence[Row], order: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Numbers of rows, longest first, in groups whose padded ids are at most `tokens`, or of one row."""
    group: list[int] = []
    for number in order:
        if group and (len(group) + 1) * len(asked[group[0]].ids) > tokens:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _one_pass(reader: Reader, together: Sequence[Row]) -> list[Judged]:
    lengths_B = torch.tensor([len(row.ids) for row in together])
    longest = int(lengths_B.max())
    ids_BL = torch.tensor([row.ids + row.ids[:1] * (longest - len(row.ids)) for row in together])
    places = [
        torch.arange(b * longest + row.start - 1, b * longest + len(row.ids) - 1)
        for b, row in enumerate(together)
    ]
    places_M = torch.cat(places)
    if not len(places_M):
        return [Judged(float("nan"), True) for _ in together]
    nats_M, likeliest_M = reader.predict(ids_BL, lengths_B, places_M)
    right_M = likeliest_M == ids_BL.flatten()[places_M + 1]
    counts = [len(own) for own in places]
    return [_judged(*own) for own in zip(nats_M.split(counts), right_M.split(counts), strict=True)]


def _judged(nats_N: Tensor, right_N: Tensor) -> Judged:
    return Judged(float(nats_N.mean()), bool(right_N.all()))
