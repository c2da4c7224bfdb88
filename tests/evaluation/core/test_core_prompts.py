"""Prompts, draws and places of all three kinds of tasks, worked by hand."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf.evaluation.core.prompts import Row, drawn, prompts, rows, shots_of
from bytegolf.evaluation.core.tasks import TASKS, Task, tasks_named

CHOICE = Task("choice", "c.jsonl", "multiple_choice", 2, 0.25, "\nAnswer: ")
SCHEMA = Task("schema", "s.jsonl", "schema", 1, 0.5)
WRITE = Task("write", "w.jsonl", "language_modeling", 1, 0.0)


def characters(text: str) -> list[int]:
    """One id a character, behind an id 0."""
    return [0, *map(ord, text)]


def test_multiple_choice_by_hand() -> None:
    shots = [
        {"query": "Question: 1+1?", "choices": ["3", "2"], "gold": 1},
        {"query": "Question: 2+2?", "choices": ["4", "5"], "gold": 0},
    ]
    item = {"query": "Question: 3+3?", "choices": ["6", "60"], "gold": 0}
    before = "Question: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer: 4\n\nQuestion: 3+3?\nAnswer: "
    texts = prompts(CHOICE, item, shots)
    assert texts == [before + "6", before + "60"]
    # Both begin with a 6, so only what parts them is judged: nothing of the first, a 0 of the second.
    begin = 1 + len(before) + 1
    assert rows(CHOICE, texts, characters, None) == [Row(characters(text), begin) for text in texts]


def test_schema_by_hand() -> None:
    shots = [{"context_options": ["He ate", "It ate"], "continuation": "the pie.", "gold": 0}]
    item = {"context_options": ["The cat", "The mouse"], "continuation": "ran away.", "gold": 1}
    texts = prompts(SCHEMA, item, shots)
    assert texts == ["He ate the pie.\n\nThe cat ran away.", "He ate the pie.\n\nThe mouse ran away."]
    # The options end alike from " ran away." on, with the space that delimits.
    read = rows(SCHEMA, texts, characters, None)
    assert [row.ids[row.start :] for row in read] == [list(map(ord, " ran away."))] * 2


def test_language_modeling_by_hand() -> None:
    shots = [{"context": "  Paris is in\n", "continuation": "France"}]
    item = {"context": "Rome is in ", "continuation": "Italy"}
    texts = prompts(WRITE, item, shots)
    # Contexts lose the space around them, and the text without continuation the delimiter at its end.
    assert texts == ["Paris is in France\n\nRome is in", "Paris is in France\n\nRome is in Italy"]
    (row,) = rows(WRITE, texts, characters, None)
    assert row.ids[row.start :] == list(map(ord, " Italy"))


def test_a_delimiter_with_words_stays_before_the_continuation() -> None:
    task = Task("w", "w.jsonl", "language_modeling", 0, 0.0, "\nAnswer: ")
    texts = prompts(task, {"context": "Who?", "continuation": "Me"}, [])
    assert texts == ["Who?\nAnswer:", "Who?\nAnswer: Me"]


def test_where_the_tokenizer_joins_at_the_seam() -> None:
    def joining(text: str) -> list[int]:
        """Characters, but "n " is one id."""
        ids, rest = [0], text
        while rest:
            ids.append(1 if rest.startswith("n ") else ord(rest[0]))
            rest = rest[2 if rest.startswith("n ") else 1 :]
        return ids

    (row,) = rows(WRITE, ["in", "in it"], joining, None)
    assert row.ids[row.start :] == [1, ord("i"), ord("t")]


def test_long_rows_keep_their_end() -> None:
    texts = ["abcdefgh", "abcdefgh ij"]
    (row,) = rows(WRITE, texts, characters, 6)
    assert row == Row(list(map(ord, "fgh ij")), 3)
    # Of a continuation that is longer than what is read, all is judged but the first id.
    (row,) = rows(WRITE, texts, characters, 2)
    assert row == Row(list(map(ord, "ij")), 1)


def test_draws_are_the_protocol_s() -> None:
    # What CPython's generator gives for Random(1337) and Random(1234 + 3), written out.
    items = [{"number": number} for number in range(12)]
    order = [6, 0, 1, 4, 10, 7, 3, 11, 2, 5, 8, 9]
    assert [item["number"] for item in drawn(items, None)] == order
    assert [item["number"] for item in drawn(items, 5)] == order[:5]
    assert shots_of(CHOICE, items, 3) == [items[2], items[7]]


@given(size=st.integers(1, 30), index=st.integers(0, 29), shots=st.integers(0, 12))
def test_an_item_is_never_its_own_example(size: int, index: int, shots: int) -> None:
    items = [{"number": number} for number in range(size)]
    task = Task("t", "t.jsonl", "schema", shots)
    chosen = [item["number"] for item in shots_of(task, items, index % size)]
    assert index % size not in chosen
    assert len(chosen) == len(set(chosen)) == min(shots, size - 1)


@pytest.mark.parametrize("labels", [("copa", "piqa"), ("piqa", "copa")])
def test_tasks_keep_their_order(labels: Sequence[str]) -> None:
    assert [task.label for task in tasks_named(tuple(labels))] == ["copa", "piqa"]
    assert tasks_named(()) == TASKS
    with pytest.raises(ValueError, match="'coap' is unknown; there are hellaswag_zeroshot"):
        tasks_named(("coap",))
