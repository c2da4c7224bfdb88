"""Nested plain data (a recipe, a machine) as a tree that folds without any script."""

from collections.abc import Mapping
from typing import Any

from bytegolf.report.markup import Html, tag

# Deeper data is shown as text; recipes are far shallower, and a page must end.
_DEEPEST = 20


def tree(data: Any, depth: int = 0) -> Html:
    """A list with one entry per field; entries that have entries fold, the outermost level stands open.

    A field "type" names its object, so it stands beside the object's name instead of in the list.
    """
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items() if key != "type"]
    else:
        items = [(str(index), value) for index, value in enumerate(data)]
    return tag("ul", *(_entry(name, value, depth) for name, value in items), class_="tree")


def _entry(name: str, value: Any, depth: int) -> Html:
    key = tag("span", name, class_="key")
    if isinstance(value, Mapping) and set(value) == {"type"}:
        return tag("li", key, " ", _hint(value))
    if not isinstance(value, Mapping | list) or not value or depth >= _DEEPEST:
        return tag("li", key, " ", tag("code", _leaf(value)))
    if _plain_list(value):
        return tag("li", key, " ", tag("code", ", ".join(_leaf(item) for item in value)))
    return tag("li", tag("details", tag("summary", key, " ", _hint(value)), tree(value, depth + 1)))


def _plain_list(value: Any) -> bool:
    return isinstance(value, list) and all(not isinstance(item, Mapping | list) for item in value)


def _hint(value: Any) -> Html:
    """What a folded entry is: the name of its class, or how many entries it has."""
    if isinstance(value, Mapping):
        return tag("span", str(value.get("type", f"{len(value)} fields")), class_="hint")
    kinds = {str(item.get("type")) for item in value if isinstance(item, Mapping) and "type" in item}
    return tag("span", f"{len(value)} × {kinds.pop() if len(kinds) == 1 else 'entries'}", class_="hint")


def _leaf(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if len(text) <= 500 else text[:499] + "…"
