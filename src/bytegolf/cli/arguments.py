"""The words of a command line: options by their dotted paths, and what stands free of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from bytegolf.cli.draft import Draft, unknown
from bytegolf.cli.options import POSITIONALS, usage
from bytegolf.errors import RecipeError


def read_options(
    words: Sequence[str], drafts: Sequence[Draft], *, short: Mapping[str, str] | None = None
) -> list[str]:
    """Sets each option on the first draft that knows it; returns the words that belong to no option.

    An option is `--path value`, `--path=value`, for lists `--path value value …`, and for switches also
    `--path` alone. `short` maps option names, and letters such as `-o`, to the paths they stand for. Raises
    `RecipeError` in one line.
    """
    free: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if short and word in short and word.startswith("-"):
            word = f"--{short[word]}"
        if not word.startswith("--"):
            free.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        path = (short or {}).get(name, name)
        draft = _owner(path, drafts, short or {})
        if equals:
            draft.assign(path, [text])
            continue
        draft.assign(path, _take(waiting, draft, path))
    return free


def _take(waiting: list[str], draft: Draft, path: str) -> list[str]:
    """Removes the values of an option from the words that follow it."""
    if draft.is_switch(path):
        follows = waiting and waiting[0].lower() in ("true", "false")
        return [waiting.pop(0)] if follows else []
    most = len(waiting) if draft.takes_many(path) else 1
    values = []
    while waiting and len(values) < most and not waiting[0].startswith("--"):
        values.append(waiting.pop(0))
    return values


def _owner(path: str, drafts: Sequence[Draft], short: Mapping[str, str]) -> Draft:
    for draft in drafts:
        if draft.has(path):
            return draft
    known = [*short, *(name for draft in drafts for name in draft.paths())]
    raise RecipeError(unknown(path, known, "add --help for the list"))


def read_command(
    name: str,
    draft: Draft | type,
    words: Sequence[str],
    *,
    more: Sequence[Draft] = (),
    short: Mapping[str, str] | None = None,
) -> Any:
    """The options of command `name`, its positional arguments included, as its dataclass.

    Options that `draft` doesn't know change the drafts in `more`.
    """
    if isinstance(draft, type):
        draft = Draft.blank(draft)
    fields = POSITIONALS[name]
    free: list[Any] = list(read_options(words, [draft, *more], short=short))
    if free and fields and draft.takes_many(fields[-1]):
        last = len(fields) - 1
        free[last:] = [free[last:]] if free[last:] else []
    if len(free) > len(fields):
        raise RecipeError(f"{free[len(fields)]!r} is one argument too many; write {usage(name)} OPTIONS")
    for field, value in zip(fields, free, strict=False):
        draft.assign_plain(field, value)
    if fields and fields[0] not in draft.given():
        raise RecipeError(
            f"{name} needs {usage(name).removeprefix(f'bytegolf {name} ').split()[0]}; write {usage(name)}"
        )
    return draft.build()
