"""From an item to the texts that a model reads, and the places in them that decide."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bytegolf.evaluation.core.bundle import Item
from bytegolf.evaluation.core.tasks import Task

_SHUFFLE_SEED, _SHOTS_SEED = 1337, 1234

#: Ids of a text, with what begins a document in front.
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Row:
    """Ids that a model reads; those from `start` on are judged, each by what was predicted before it."""

    ids: list[int]
    start: int


def drawn(items: Sequence[Item], most: int | None) -> list[Item]:
    """The items in the order of the protocol, the first `most` of them."""
    shuffled = list(items)
    random.Random(_SHUFFLE_SEED).shuffle(shuffled)
    return shuffled if most is None else shuffled[:most]


def shots_of(task: Task, items: Sequence[Item], index: int) -> list[Item]:
    """The solved items before `items[index]`: drawn from the others, by a generator of its own.

    Fewer than the task has where there are not so many others.
    """
    others = [i for i in range(len(items)) if i != index]
    wanted = min(task.shots, len(others))
    chosen = random.Random(_SHOTS_SEED + index).sample(others, wanted)
    return [items[i] for i in chosen]


def prompts(task: Task, item: Item, shots: Sequence[Item]) -> list[str]:
    """The texts for an item, one an option; in language modeling without the continuation, and with it.

    Solved items stand before the one that is asked, an empty line between any two.
    """
    match task.kind:
        case "multiple_choice":
            solved = [_joined(task, shot["query"], shot["choices"][shot["gold"]]) for shot in shots]
            asked = [_joined(task, item["query"], choice) for choice in item["choices"]]
        case "schema":
            solved = [
                _joined(task, shot["context_options"][shot["gold"]], shot["continuation"]) for shot in shots
            ]
            asked = [_joined(task, context, item["continuation"]) for context in item["context_options"]]
        case "language_modeling":
            solved = [_joined(task, shot["context"].strip(), shot["continuation"]) for shot in shots]
            context = item["context"].strip()
            asked = [_joined(task, context, continuation) for continuation in ("", item["continuation"])]
    texts = ["\n\n".join([*solved, text]) for text in asked]
    if task.kind == "language_modeling":
        # A space at the end would be part of the continuation's first token.
        texts[0] = texts[0].strip()
    return texts


def _joined(task: Task, before: str, behind: str) -> str:
    return f"{before}{task.delimiter}{behind}"


def rows(task: Task, texts: Sequence[str], encode: Encode, context: int | None) -> list[Row]:
    """What a model reads for the texts of one item, and where judging begins.

    A continuation begins where the options' ids part (multiple choice), or is the ids at the end that they
    share (schema). In language modeling one row is left, with the continuation; it begins behind the ids of
    the text without. Where a tokenizer joins both at the seam, which the protocol does not foresee, it begins
    with the joined id. Of a row longer than `context` the last ids are read.
    """
    ids = [encode(text) for text in texts]
    match task.kind:
        case "multiple_choice":
            start = _shared(ids)
            return [_cropped(row, start, context) for row in ids]
        case "schema":
            shared = _shared([row[::-1] for row in ids])
            return [_cropped(row, len(row) - shared, context) for row in ids]
        case "language_modeling":
            return [_cropped(ids[1], _shared(ids), context)]


def _shared(rows_of_ids: Sequence[list[int]]) -> int:
    """How many ids all rows begin with."""
    shared = 0
    for column in zip(*rows_of_ids, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def _cropped(ids: list[int], start: int, context: int | None) -> Row:
    gone = 0 if context is None else max(0, len(ids) - context)
    # The first id that is read cannot be judged: nothing was predicted before it.
    return Row(ids[gone:], max(1, start - gone))
