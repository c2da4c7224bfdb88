"""Specs (trees of frozen dataclasses) to plain JSON data and back.

A member of a union is written as an object with its class name under "type", so the data says what it
is without any registry: the field's own annotation lists which classes may stand there.
"""

import dataclasses
import math
import sys
import types
import typing
from enum import Enum
from typing import Any

from bytegolf.errors import RecipeError

T = typing.TypeVar("T")
_NONE = type(None)


def to_json(spec: Any) -> Any:
    """Plain dicts, lists, strings and numbers for a spec. Dataclasses carry their class name as "type"."""
    if isinstance(spec, Enum):
        return spec.value
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        fields = {field.name: to_json(getattr(spec, field.name)) for field in dataclasses.fields(spec)}
        return {"type": type(spec).__name__, **fields}
    if isinstance(spec, list | tuple):
        return [to_json(item) for item in spec]
    if isinstance(spec, dict):
        return {str(key): to_json(value) for key, value in spec.items()}
    if spec is None or isinstance(spec, bool | int | float | str):
        return spec
    raise TypeError(f"a spec holds {spec!r}, which has no JSON form")


def from_json(kind: type[T], data: Any, path: str = "") -> T:
    """The spec of type `kind` that `data` describes.

    Raises `RecipeError` naming the dotted path of the first field that is unknown, missing or mistyped.
    """
    return typing.cast(T, _read(kind, data, path))


def _read(kind: Any, data: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, data, path)
    if origin is tuple:
        return _read_tuple(arguments, data, path)
    if origin is dict:
        _expect(isinstance(data, dict), kind, data, path)
        return {_read(arguments[0], k, path): _read(arguments[1], v, f"{path}.{k}") for k, v in data.items()}
    if origin is typing.Literal:
        if data not in arguments:
            raise RecipeError(f"{path or 'value'} is {data!r}; allowed: {', '.join(map(repr, arguments))}")
        return data
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if data not in [member.value for member in kind]:
            raise RecipeError(f"{path} is {data!r}; allowed: {', '.join(member.value for member in kind)}")
        return kind(data)
    return _read_plain(kind, data, path)


def _read_plain(kind: Any, data: Any, path: str) -> Any:
    if kind is float and type(data) is int and abs(data) <= sys.float_info.max:
        data = float(data)
    _expect(kind in (bool, int, float, str, _NONE) and type(data) is kind, kind, data, path)
    if kind is float and not math.isfinite(data):
        raise RecipeError(f"{path} is {data!r}; a finite number is needed")
    return data


def _read_union(members: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and _NONE in members:
        return None
    classes = {m.__name__: m for m in members if dataclasses.is_dataclass(m)}
    if isinstance(data, dict) and classes:
        name = data.get("type")
        if name is None and len(classes) == 1:
            name = next(iter(classes))
        if not isinstance(name, str) or name not in classes:
            raise RecipeError(f"{path or 'value'} has type {_short(name)}; allowed: {', '.join(classes)}")
        return _read_dataclass(classes[name], data, path)
    plain = [m for m in members if m is not _NONE and not dataclasses.is_dataclass(m)]
    for member in plain:
        try:
            return _read(member, data, path)
        except RecipeError:
            continue
    names = " or ".join(getattr(m, "__name__", str(m)) for m in members)
    raise RecipeError(f"{path or 'value'} is {_short(data)}; {names} is needed")


def _read_tuple(arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    _expect(isinstance(data, list | tuple), "a list", data, path)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item, f"{path}.{i}") for i, item in enumerate(data))
    if len(data) != len(arguments):
        raise RecipeError(f"{path} has {len(data)} items; {len(arguments)} are needed")
    pairs = zip(arguments, data, strict=True)
    return tuple(_read(kind, item, f"{path}.{i}") for i, (kind, item) in enumerate(pairs))


def _read_dataclass(kind: Any, data: Any, path: str) -> Any:
    _expect(isinstance(data, dict), kind, data, path)
    name = data.get("type", kind.__name__)
    if name != kind.__name__:
        raise RecipeError(f"{path or 'value'} has type {name!r}; {kind.__name__} is needed")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key != "type" and key not in fields:
            where = f"{path}.{key}" if path else str(key)
            raise RecipeError(f"{where} is unknown; {kind.__name__} has: {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, field in fields.items():
        where = f"{path}.{key}" if path else key
        if key in data:
            values[key] = _read(hints[key], data[key], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where} is missing")
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}" if path else str(error)) from error


def _expect(condition: bool, kind: Any, data: Any, path: str) -> None:
    if not condition:
        name = getattr(kind, "__name__", str(kind))
        raise RecipeError(f"{path or 'value'} is {_short(data)}; {name} is needed")


def _short(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
