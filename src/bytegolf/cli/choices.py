"""The values that a sweep tries: `--set path=a,b`, and the groups of settings that they make."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bytegolf.errors import RecipeError

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_LABEL = 32


@dataclass(frozen=True)
class Choice:
    """A setting and the values it takes, as they were written."""

    path: str
    values: tuple[str, ...]


def read_choices(texts: Sequence[str]) -> tuple[Choice, ...]:
    """The choices that `path=a,b` stand for. Raises `RecipeError` in one line where one cannot be read."""
    choices: list[Choice] = []
    for text in texts:
        path, equals, values = text.removeprefix("--").partition("=")
        if not equals or not path:
            raise RecipeError(
                f"--set is {text!r}; write --set PATH=VALUE,VALUE, such as --set model.width=64,96"
            )
        path = path.replace("-", "_")
        if path == "training.seed":
            raise RecipeError(f"--set {text} would hide the seeds; write --seeds {values.replace(',', ' ')}")
        if path in [choice.path for choice in choices]:
            raise RecipeError(f"--set {path} is given twice; write all of its values after one =")
        read = tuple(split_values(values, path))
        for value in read:
            if read.count(value) > 1:
                raise RecipeError(f"--set {path} has the value {value!r} twice; give each once")
        choices.append(Choice(path, read))
    return tuple(choices)


def split_values(text: str, path: str) -> Iterator[str]:
    """Cuts at commas outside of brackets, braces and double quotes; a value loses quotes around it."""
    start, depth, quoted, escaped = 0, 0, False, False
    for place, character in enumerate(f"{text},"):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            yield _value(text[start:place], text, path)
            start = place + 1
    if start <= len(text):
        raise RecipeError(f"--set {path}={text} ends inside of brackets or quotes; close them")


def _value(text: str, whole: str, path: str) -> str:
    if not text:
        raise RecipeError(f'--set {path}={whole} has no value at a comma or at its end; "" is empty text')
    if text[0] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecipeError(f"--set {path}={whole}: {text} is no text in double quotes: {error}") from error


def groups_of(choices: Sequence[Choice]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Every combination of the values, (path, value) each, by a name that can be a folder's."""
    if not choices:
        return {"default": ()}
    keys = [choice.path.rsplit(".", 1)[-1] for choice in choices]
    if len(set(keys)) < len(keys) or any(key == "*" or key.isdecimal() for key in keys):
        keys = [choice.path for choice in choices]
    named = [
        [
            (f"{_safe(key)}={label}", (choice.path, value))
            for label, value in zip(_labels(choice), choice.values, strict=True)
        ]
        for key, choice in zip(keys, choices, strict=True)
    ]
    return {
        ",".join(name for name, _ in combination): tuple(setting for _, setting in combination)
        for combination in itertools.product(*named)
    }


def _labels(choice: Choice) -> list[str]:
    """The values as parts of a file name, numbered where they would be alike."""
    labels = [_safe(value)[:_LONGEST_LABEL] for value in choice.values]
    if len(set(labels)) < len(labels) or not all(labels):
        return [f"{number}-{label}".rstrip("-") for number, label in enumerate(labels, 1)]
    return labels


def _safe(text: str) -> str:
    """`text` as part of a file name; a minus sign stays, the traces of brackets go."""
    plain = _UNSAFE.sub("-", text)
    return plain.strip("-") if text.startswith(("[", "{")) else plain
