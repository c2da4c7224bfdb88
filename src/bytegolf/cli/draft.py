"""Dotted paths into a tree of dataclasses: model.layers.0.mixer.window=128.

Changes are collected on the tree's JSON form and checked as a whole at the end, so that two settings which
only fit together, such as heads and key_value_heads, can be changed one after the other.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.tree import from_json, to_json

_NONE = type(None)
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", _NONE: "none"}


class Draft:
    """A spec that is being changed. Every method names paths as the user writes them: --a.b.c."""

    def __init__(self, kind: type, data: dict[str, Any]) -> None:
        self._kind, self._data = kind, data

    @staticmethod
    def of(spec: Any) -> "Draft":
        """Starts from an existing spec."""
        return Draft(type(spec), to_json(spec))

    @staticmethod
    def blank(kind: type) -> "Draft":
        """Starts from a class's defaults; what has none must be set before `build`."""
        return Draft(kind, _fresh(kind, {}))

    def build(self) -> Any:
        """The changed spec. Raises `RecipeError` if a setting is missing or does not fit the others."""
        return from_json(self._kind, self._data)

    def has(self, path: str) -> bool:
        """Whether the path begins with a field of the tree's root."""
        return _parts(path)[0] in _hints(self._kind)

    def paths(self) -> list[str]:
        """Every path that can be set, with the indices that exist."""
        return list(_paths(self._kind, self._data, ""))

    def takes_many(self, path: str) -> bool:
        """Whether the path is a list, to which several values can be given."""
        return any(_is_list(place.kind) for place in self._places(path))

    def is_switch(self, path: str) -> bool:
        """Whether the path is true or false, and can stand without a value."""
        return all(place.kind is bool for place in self._places(path))

    def assign(self, path: str, values: Sequence[str]) -> None:
        """Sets a path (`*` stands for every item of a list) to what the values say."""
        for place in self._places(path):
            place.container[place.key] = _value(place, values)

    def given(self) -> set[str]:
        """The fields of the root that have a value, be it their default."""
        return {name for name in self._data if name != "type"}

    def assign_plain(self, name: str, value: Any) -> None:
        """Sets a field of the root to a JSON value."""
        self._data[name] = value

    def _places(self, path: str) -> list["_Place"]:
        places = [_Place({"": self._data}, "", self._kind, "")]
        for part in _parts(path):
            places = [below for place in places for below in self._below(place, part, path)]
        return places

    def _below(self, place: "_Place", part: str, path: str) -> Iterator["_Place"]:
        data = place.data
        if isinstance(data, list) and _is_list(place.kind):
            yield from _items(place, data, part)
            return
        kind = _present_class(place.kind, data)
        if kind is None:
            raise RecipeError(_no_settings(place, path))
        hints = _hints(kind)
        if part not in hints:
            raise RecipeError(unknown(path, self.paths(), f"{kind.__name__} has: {', '.join(hints)}"))
        yield _Place(data, part, hints[part], f"{place.path}.{part}".lstrip("."))


@dataclasses.dataclass(frozen=True)
class _Place:
    """A spot in the JSON tree: container[key] has the annotated type `kind`."""

    container: Any
    key: Any
    kind: Any
    path: str

    @property
    def data(self) -> Any:
        return self.container.get(self.key) if isinstance(self.container, dict) else self.container[self.key]


def unknown(path: str, known: Sequence[str], otherwise: str) -> str:
    """One line on a path that does not exist: what was meant, or `otherwise`."""
    if "*" in path:
        known = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in known))
    last = path.rsplit(".", 1)[-1]
    # Someone who writes --width means --model.width.
    ends = [name for name in known if name.rsplit(".", 1)[-1] == last]
    near = ends[:1] or difflib.get_close_matches(path, known, n=1, cutoff=0.7)
    return f"--{path} is unknown; {f'did you mean --{near[0]}?' if near else otherwise}"


def _items(place: _Place, data: list[Any], part: str) -> Iterator[_Place]:
    kind = typing.get_args(place.kind)[0]
    if part != "*" and not (part.isdecimal() and int(part) < len(data)):
        have = f"0 to {len(data) - 1}, or * for every one" if data else "it is empty"
        raise RecipeError(f"--{place.path} has no item {part!r}; {have}")
    for index in range(len(data)) if part == "*" else [int(part)]:
        yield _Place(data, index, kind, f"{place.path}.{index}")


def _no_settings(place: _Place, path: str) -> str:
    classes = _classes(place.kind)
    if classes:
        names = " or ".join(classes)
        return f"--{path} cannot be set while {place.path} is {place.data!r}; first --{place.path} {names}"
    if _is_list(place.kind):
        return f"--{place.path} is a list; give its values after --{place.path}"
    return f"--{path} is unknown; {place.path} is {_needed(place.kind)}, set it with --{place.path} VALUE"


def _value(place: _Place, values: Sequence[str]) -> Any:
    """The JSON form of what the user wrote for a place."""
    if _is_list(place.kind):
        if len(values) == 1 and values[0].startswith("["):
            return _from_text(place, values[0])
        if not values:
            raise RecipeError(f"--{place.path} needs one value or more; an empty list is '[]'")
        item = typing.get_args(place.kind)[0]
        return [_one(_Place([None], 0, item, place.path), text) for text in values]
    if not values and place.kind is bool:
        return True
    if len(values) != 1:
        raise RecipeError(f"--{place.path} needs a value: {_needed(place.kind)}")
    return _one(place, values[0])


def _one(place: _Place, text: str) -> Any:
    classes = _classes(place.kind)
    if classes and text.startswith("{"):
        return _from_text(place, text)
    if text in classes:
        return _fresh(classes[text], place.data)
    for kind in _members(place.kind):
        value = _plain(kind, text)
        if value is not _UNREADABLE:
            return value
    raise RecipeError(f"--{place.path} is {text!r}; {_needed(place.kind)} is needed{_nearest(text, classes)}")


def _from_text(place: _Place, text: str) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--{place.path} is {text!r}, which is no JSON: {error}") from error
    try:
        return to_json(from_json(place.kind, data, f"--{place.path}"))
    except BytegolfError as error:
        raise RecipeError(f"--{place.path} is {text!r}: {error}") from error


_UNREADABLE = object()


def _plain(kind: Any, text: str) -> Any:
    """`text` read as a plain type, or `_UNREADABLE`."""
    if typing.get_origin(kind) is typing.Literal:
        return next((choice for choice in typing.get_args(kind) if str(choice) == text), _UNREADABLE)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return text if text in [member.value for member in kind] else _UNREADABLE
    lower = text.lower()
    if kind is _NONE:
        return None if lower == "none" else _UNREADABLE
    if kind is bool:
        return {"true": True, "false": False}.get(lower, _UNREADABLE)
    if kind is str:
        return text
    if kind not in (int, float):
        return _UNREADABLE
    try:
        value = kind(text)
    except ValueError:
        return _UNREADABLE
    # Larger whole numbers fit nowhere that a setting ends up.
    usable = abs(value) < 2**63 if kind is int else math.isfinite(value)
    return value if usable else _UNREADABLE


def _fresh(kind: type, before: Any) -> dict[str, Any]:
    """A class's JSON form: settings that `before` also has stay, the others take their defaults."""
    data: dict[str, Any] = {"type": kind.__name__}
    for field in dataclasses.fields(kind):
        if isinstance(before, dict) and field.name in before:
            data[field.name] = before[field.name]
        elif field.default is not dataclasses.MISSING:
            data[field.name] = to_json(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            data[field.name] = to_json(field.default_factory())
    return data


def _paths(kind: Any, data: Any, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(data, list) and _is_list(kind) and any(isinstance(item, dict) for item in data):
        for index, item in enumerate(data):
            yield from _paths(typing.get_args(kind)[0], item, f"{path}.{index}")
    present = _present_class(kind, data)
    if present is not None:
        for name, hint in _hints(present).items():
            yield from _paths(hint, data.get(name), f"{path}.{name}".lstrip("."))


def _parts(path: str) -> list[str]:
    return path.replace("-", "_").split(".")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Field names and their types, without tyro's annotations."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _members(kind: Any) -> tuple[Any, ...]:
    """A union's members, none first: where text is allowed too, the word none still means no value."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(sorted(typing.get_args(kind), key=lambda member: member is not _NONE))
    return (kind,)


def _classes(kind: Any) -> dict[str, type]:
    return {member.__name__: member for member in _members(kind) if dataclasses.is_dataclass(member)}


def _present_class(kind: Any, data: Any) -> Any:
    """The dataclass that `data` is of, or None."""
    classes = _classes(kind)
    if not isinstance(data, dict):
        return None
    return classes.get(data.get("type", ""), next(iter(classes.values()), None))


def _needed(kind: Any) -> str:
    """In words, what a value of this type looks like."""
    if _is_list(kind):
        return "a list"
    words = []
    for member in sorted(_members(kind), key=lambda member: member is _NONE):
        if typing.get_origin(member) is typing.Literal:
            words += [str(choice) for choice in typing.get_args(member)]
        elif isinstance(member, type) and issubclass(member, Enum):
            words += [choice.value for choice in member]
        else:
            words.append(_PLAIN.get(member, getattr(member, "__name__", str(member))))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _nearest(text: str, classes: dict[str, type]) -> str:
    if len(classes) == 1:
        (name, only), *_ = classes.items()
        first = next(iter(_hints(only)), "")
        return f" ({name} is a group of settings, such as .{first})" if first else ""
    near = difflib.get_close_matches(text, list(classes), n=1)
    return f"; did you mean {near[0]}?" if near else ""
