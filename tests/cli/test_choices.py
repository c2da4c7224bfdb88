"""The values of a sweep as they are written on the command line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf.cli.choices import Choice, groups_of, read_choices, split_values
from bytegolf.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("64", ["64"]),
        ("64,96", ["64", "96"]),
        ("none,0.5", ["none", "0.5"]),
        ("[0.5],[0.25,0.5]", ["[0.5]", "[0.25,0.5]"]),
        ('{"type":"Grid","bits":[1,2]},Bytes', ['{"type":"Grid","bits":[1,2]}', "Bytes"]),
        ('"a,b",c', ["a,b", "c"]),
        ('["a],b","c"],[]', ['["a],b","c"]', "[]"]),
        ('"say \\"x,y\\""', ['say "x,y"']),
        ('"",a', ["", "a"]),
        ("a=b,c", ["a=b", "c"]),
    ],
)
def test_commas_part_values_outside_of_brackets_and_quotes(text: str, values: list[str]) -> None:
    assert list(split_values(text, "path")) == values


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_any_texts_can_be_written_in_quotes(values: list[str]) -> None:
    assert list(split_values(",".join(map(json.dumps, values)), "path")) == values


@given(st.lists(st.lists(st.text(max_size=5) | st.integers(), max_size=3), min_size=1, max_size=4))
def test_any_lists_can_be_written_as_json(values: list[list[str | int]]) -> None:
    written = [json.dumps(value) for value in values]
    assert list(split_values(",".join(written), "path")) == written


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["model.width"], "write --set PATH=VALUE,VALUE"),
        (["=3"], "write --set PATH=VALUE,VALUE"),
        (["model.width="], "no value"),
        (["model.width=1,,2"], "no value at a comma"),
        (["model.width=1,2,"], "no value at a comma"),
        (["a=[1,2"], "close them"),
        (['a="x'], "close them"),
        (['a="x"y'], "no text in double quotes"),
        (["training.seed=1,2"], "write --seeds 1 2"),
        (["a=1,2", "a=3"], "--set a is given twice"),
        (["a=1,2,1"], "the value '1' twice"),
    ],
)
def test_what_cannot_be_read_is_refused(texts: list[str], part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        read_choices(texts)


def test_groups_are_all_combinations_named_by_their_values() -> None:
    groups = groups_of(read_choices(["model.width=64,96", "--training.rows=8"]))
    assert groups == {
        "width=64,rows=8": (("model.width", "64"), ("training.rows", "8")),
        "width=96,rows=8": (("model.width", "96"), ("training.rows", "8")),
    }
    assert groups_of([]) == {"default": ()}


def test_paths_that_end_alike_are_named_whole() -> None:
    groups = groups_of([Choice("model.a.width", ("1",)), Choice("model.b.width", ("2",))])
    assert list(groups) == ["model.a.width=1,model.b.width=2"]
    assert list(groups_of([Choice("model.layers.*", ("A",))])) == ["model.layers.-=A"]


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5, unique=True))
def test_names_are_as_many_as_values_and_fit_a_file_system(values: list[str]) -> None:
    names = list(groups_of([Choice("text.field", tuple(values))]))
    assert len(names) == len(values)
    assert all(name.isascii() and "/" not in name and len(name) < 100 for name in names)
    assert [name for name in names if name.strip(".") == ""] == []


def test_a_minus_sign_stays_in_the_name() -> None:
    assert list(groups_of([Choice("a.b", ("-5", "5", "[0.5,1]"))])) == ["b=-5", "b=5", "b=0.5-1"]
