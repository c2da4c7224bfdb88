"""Where two trees of plain data differ."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(one: Any, two: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value in `one`, value in `two`) wherever two JSON values differ; None for what is absent.

    Lists are compared item by item where they are of one length, and otherwise as a whole.
    """
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in dict.fromkeys([*one, *two]):
            yield from differences(one.get(key), two.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, pair in enumerate(zip(one, two, strict=True)):
            yield from differences(*pair, f"{path}.{index}".lstrip("."))
    elif one != two:
        yield path, one, two
