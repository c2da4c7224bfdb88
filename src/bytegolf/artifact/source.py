"""Compressed size of the source that evaluation needs; the 16 MB challenge counts it with the weights.

From the root modules, imports within the package are followed wherever they stand in a file, but for those
in functions of an `__init__`, which offer more than they need, and those for type checkers alone. Docstrings
and comments are taken out, since they change nothing that runs.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import brotli

#: Loading an artifact and scoring a text with it, adaptation included.
EVALUATION_ROOTS = ("bytegolf.artifact.loading", "bytegolf.evaluation.bits")

_PACKAGE = __name__.split(".", maxsplit=1)[0]
_FOLDER = Path(__file__).parents[1]


def source_bytes(roots: tuple[str, ...] = EVALUATION_ROOTS) -> int:
    """Size in bytes of `compressed_source(roots)`."""
    return len(compressed_source(roots))


def compressed_source(roots: tuple[str, ...] = EVALUATION_ROOTS) -> bytes:
    """brotli 11 of all modules in the import closure of `roots`, each after a line with its name."""
    modules = import_closure(roots)
    text = "".join(f"# {name}\n{stripped(_file(name).read_text('utf-8'))}\n" for name in modules)
    return brotli.compress(text.encode(), quality=11, lgwin=24)


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
        waiting.extend(_imports(name))
    return sorted(found)


def stripped(source: str) -> str:
    """The module without comments and docstrings, in the layout of `ast.unparse`."""
    parsed = ast.parse(source)
    for node in ast.walk(parsed):
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
    return ast.unparse(ast.fix_missing_locations(parsed))


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
    """All nodes under `node` but the bodies of `if TYPE_CHECKING` and, unless asked for, of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _running(child, functions=functions)


def _imports(name: str) -> set[str]:
    """Modules of the package that importing `name` runs: those it names, and the packages around them."""
    file = _file(name)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    named: set[str] = {name}
    for node in _running(ast.parse(file.read_text("utf-8")), functions=file.name != "__init__.py"):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
    ours = [target.split(".") for target in named if target.split(".")[0] == _PACKAGE]
    around = {".".join(parts[:length]) for parts in ours for length in range(1, len(parts) + 1)}
    return {target for target in around if _file(target).is_file()} - {name}
