"""Differences between trees of plain data."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf.report.differences import differences

trees = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=12,
)


@given(trees)
def test_equal_trees_have_none(tree: Any) -> None:
    assert list(differences(tree, tree)) == []


@given(trees, trees)
def test_they_mirror_each_other(one: Any, two: Any) -> None:
    forward, backward = differences(one, two), differences(two, one)
    assert sorted((path, repr(a), repr(b)) for path, a, b in forward) == sorted(
        (path, repr(a), repr(b)) for path, b, a in backward
    )


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [("a.c", 2, 3)]),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 5}]}, [("a.1.b", 2, 5)]),
        ({"a": [1, 2]}, {"a": [1]}, [("a", [1, 2], [1])]),
        ({"a": 1}, {"a": 1, "b": 2}, [("b", None, 2)]),
        ({"a": {"b": 1}}, {"a": None}, [("a", {"b": 1}, None)]),
        (None, {"a": 1}, [("", None, {"a": 1})]),
    ],
)
def test_paths_lead_to_what_differs(one: Any, two: Any, found: list[tuple[str, Any, Any]]) -> None:
    assert list(differences(one, two)) == found
