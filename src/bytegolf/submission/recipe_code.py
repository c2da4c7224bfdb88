"""A spec as the Python that builds it, without what is left at its default."""

import dataclasses
import itertools
from enum import Enum
from typing import Any

_WIDTH = 100


def recipe_code(spec: Any, depth: int = 0, before: int = 0) -> str:
    """The expression that builds `spec`; what stands deeper than `depth` is indented by 4 · depth.

    before: characters that stand on its line in front of it.

    Fields at their default are left out, and equal items of a tuple that follow each other are counted.
    """
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        parts = [
            f"{field.name}={recipe_code(getattr(spec, field.name), depth + 1, len(field.name) + 1)}"
            for field in dataclasses.fields(spec)
            if getattr(spec, field.name) != _default(field)
        ]
        return _joined(f"{type(spec).__name__}(", parts, ")", depth, before)
    if isinstance(spec, tuple):
        groups = [(item, len(list(same))) for item, same in itertools.groupby(spec)]
        parts = [_repeated(recipe_code(item, depth + 1), count) for item, count in groups]
        return _joined("(", [*parts, ""] if len(parts) == 1 else parts, ")", depth, before)
    return f"{type(spec).__name__}.{spec.name}" if isinstance(spec, Enum) else repr(spec)


def _repeated(code: str, count: int) -> str:
    return code if count == 1 else f"*[{code}] * {count}"


def _joined(opening: str, parts: list[str], closing: str, depth: int, before: int) -> str:
    """Parts on one line if they fit, else each on its own."""
    line = f"{opening}{', '.join(parts).rstrip(' ')}{closing}"
    if "\n" not in line and before + len(line) + 4 * depth <= _WIDTH:
        return line
    margin = "    " * (depth + 1)
    inner = "".join(f"{margin}{part},\n" for part in parts if part)
    return f"{opening}\n{inner}{margin[4:]}{closing}"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
