"""This package's modules as files of one folder, which is all that the Hugging Face library copies.

The library finds the files that a module needs by the lines "from .NAME import", and refuses a file that
imports what is not installed, wherever it does so, unless it is tried.
"""

import ast
from collections.abc import Iterator

from bytegolf.artifact.source import is_module, module_source

_PACKAGE = __name__.split(".", maxsplit=1)[0]
#: Imported where it can be used alone, so an export must load without it.
_OPTIONAL = ("triton",)


def flat_modules(roots: dict[str, str], header: str) -> dict[str, str]:
    """The text of every file, by its name, that `roots` need, with `header` before each.

    roots: file names by the modules that they stand for. Comments and docstrings stay.
    """
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        file = f"{_flat(name, roots)}.py"
        if file not in found:
            text, needed = _rewritten(module_source(name), roots)
            found[file] = header + text
            waiting += needed
    return found


def _flat(name: str, roots: dict[str, str]) -> str:
    return roots.get(name, name.removeprefix(f"{_PACKAGE}.").replace(".", "_"))


def _rewritten(source: str, roots: dict[str, str]) -> tuple[str, list[str]]:
    """The module with its imports from this package made relative, and optional ones tried; what it needs."""
    lines, needed = source.split("\n"), []
    # From the end, so that places before stay what they are.
    for node in sorted(_imports(ast.parse(source)), key=lambda node: node.lineno, reverse=True):
        new, modules = _replacement(node, roots)
        needed += modules
        if new:
            indent = " " * node.col_offset
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [indent + line for line in new]
    return "\n".join(lines), needed


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _replacement(node: ast.Import | ast.ImportFrom, roots: dict[str, str]) -> tuple[list[str], list[str]]:
    """The lines that stand for an import, none for itself, and the modules of this package that it names."""
    if isinstance(node, ast.Import):
        tops = {alias.name.partition(".")[0] for alias in node.names}
        assert _PACKAGE not in tops, "modules of this package are imported by their names"
        return (_tried(node) if tops & set(_OPTIONAL) else []), []
    module = node.module or ""
    top = module.partition(".")[0]
    if top != _PACKAGE:
        return (_tried(node) if top in _OPTIONAL else []), []
    lines, modules, plain = [], [], []
    for alias in node.names:
        whole = f"{module}.{alias.name}"
        if not is_module(whole):
            plain.append(alias)
            continue
        flat = _flat(whole, roots)
        modules.append(whole)
        # The first line is there for the library to see the file.
        lines += [
            f"from .{flat} import __name__ as _",
            f"from . import {flat} as {alias.asname or alias.name}",
        ]
    if plain:
        modules.append(module)
        lines.append(ast.unparse(ast.ImportFrom(_flat(module, roots), plain, 1)))
    return lines, modules


def _tried(node: ast.stmt) -> list[str]:
    return ["try:", f"    {ast.unparse(node)}", "except ImportError:", "    raise"]
