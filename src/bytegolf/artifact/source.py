"""The one script that a submission to the 16 MB challenge ships, whose bytes count with the weights.

From the root modules, imports within the package are followed wherever they stand in a file, but for those
in functions of an `__init__`, which offer more than they need, and those for type checkers alone. Docstrings
and comments are taken out, since they change nothing that runs. What remains is packed into a launcher, which
unpacks and runs it: the script is no estimate of what ships, it is what ships.
"""

import ast
import bz2
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

#: What unpacks, evaluates and trains; its imports are all that a submission needs.
SUBMISSION = "bytegolf.submission.launcher"
#: The part of it that loads an artifact and scores a text, adaptation included.
EVALUATION = "bytegolf.submission.evaluation"

_PACKAGE = __name__.split(".", maxsplit=1)[0]
_FOLDER = Path(__file__).parents[1]
#: Files that are no modules but are read by them.
_DATA = ("*.css",)
#: Where in a statement, a handler of exceptions or a case of a match other statements stand.
_PARTS = ("body", "handlers", "orelse", "finalbody", "cases")
_PLACE = "SOURCES = ''\n"
#: Escapes that a byte needs to stand in a Python string: those that end it, its line, or the text.
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\0": "\\x00"}
_TITLE = """\
# -*- coding: latin-1 -*-
# A language model's code in one file: `python train_gpt.py --help` says what it does, and
# `python train_gpt.py --unpack FOLDER` writes the Python modules it is made of, packed below.
"""


def source_bytes(roots: tuple[str, ...] = (SUBMISSION,)) -> int:
    """Size in bytes of `script(roots)`, which is the code that the 16 MB challenge counts."""
    return len(script(roots))


@functools.cache
def script(roots: tuple[str, ...] = (SUBMISSION,)) -> bytes:
    """`train_gpt.py`: the launcher with the modules that `roots` need, in Latin-1.

    The modules are JSON of path and text under bzip2, a byte a character; the same package gives the same
    bytes, also from what the script itself unpacks.
    """
    data = json.dumps(files(roots), ensure_ascii=False).encode()
    # Of the standard library's compressors, this one makes the least of program text.
    packed = "".join(_ESCAPES.get(byte, byte) for byte in bz2.compress(data).decode("latin-1"))
    launcher = _text(SUBMISSION) + "\n"
    assert launcher.count(_PLACE) == 1
    text = _TITLE + launcher.replace(_PLACE, f"SOURCES = '{packed}'\n")
    return text.encode("latin-1")


def files(roots: tuple[str, ...] = (SUBMISSION,)) -> dict[str, str]:
    """What `script(roots)` unpacks: the text of each file, by its path."""
    names = import_closure(roots)
    found = {_path(_file(name)): _text(name) for name in names}
    folders = {_file(name).parent for name in names}
    data = sorted(path for folder in folders for pattern in _DATA for path in folder.glob(pattern))
    return found | {_path(path): path.read_text("utf-8") for path in data}


def _text(name: str) -> str:
    return _read(name)[0]


def _path(file: Path) -> str:
    return file.relative_to(_FOLDER.parent).as_posix()


def module_source(name: str) -> str:
    """The text of one of this package's modules, with its comments."""
    return _file(name).read_text("utf-8")


def is_module(name: str) -> bool:
    """Whether this is the full name of one of this package's modules."""
    return _file(name).is_file()


def import_closure(roots: tuple[str, ...]) -> list[str]:
    """Names of all modules of this package that `roots` need, sorted. A root that is a folder stands for all
    modules in it.
    """
    waiting = [name for root in roots for name in _expanded(root)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting.extend(_read(name)[1])
    return sorted(found)


def stripped(source: str) -> str:
    """The module without comments and docstrings, in the layout of `ast.unparse`."""
    return _without_words(ast.parse(source))


def _without_words(parsed: ast.Module) -> str:
    for node in (parsed, *_statements(parsed)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
                if not node.body and not isinstance(node, ast.Module):
                    node.body = [ast.Pass()]
    return ast.unparse(parsed)


def _statements(node: ast.AST, stops: Callable[[ast.AST], bool] = lambda node: False) -> Iterator[ast.AST]:
    """All statements under `node` but those that are stops or below one. Expressions hold none."""
    for part in _PARTS:
        for child in getattr(node, part, ()):
            if not stops(child):
                yield child
                yield from _statements(child, stops)


def _expanded(root: str) -> list[str]:
    folder = _FOLDER.joinpath(*root.split(".")[1:])
    if not folder.is_dir():
        return [root]
    inner = [path.relative_to(_FOLDER).with_suffix("") for path in folder.rglob("*.py")]
    return [_name(path) for path in inner]


def _name(path: Path) -> str:
    parts = [part for part in path.parts if part != "__init__"]
    return ".".join([_PACKAGE, *parts])


def _file(name: str) -> Path:
    path = _FOLDER.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _running(node: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """All statements under `node` but those of `if TYPE_CHECKING` and, unless asked for, of functions."""

    def stops(child: ast.AST) -> bool:
        if isinstance(child, ast.If):
            return "TYPE_CHECKING" in ast.unparse(child.test)
        return not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)

    return _statements(node, stops)


@functools.cache
def _read(name: str) -> tuple[str, frozenset[str]]:
    """What ships of a module, and what it imports of this package."""
    parsed = ast.parse(_file(name).read_text("utf-8"))
    imports = _imports(name, parsed)
    return _without_words(parsed), imports


def _imports(name: str, parsed: ast.Module) -> frozenset[str]:
    """Modules of the package that importing `name` runs: those it names, and the packages around them."""
    file = _file(name)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    named: set[str] = {name}
    for node in _running(parsed, functions=file.name != "__init__.py"):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
    ours = [target.split(".") for target in named if target.split(".")[0] == _PACKAGE]
    around = {".".join(parts[:length]) for parts in ours for length in range(1, len(parts) + 1)}
    return frozenset(target for target in around if _file(target).is_file()) - {name}
