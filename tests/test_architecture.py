"""The promises of the layout, held over the syntax tree of every source file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "bytegolf"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A part imports only from parts before it; `kernels` is usable from anywhere.
ORDER = (
    "errors",
    "files",
    "tree",
    "text",
    "tokens",
    "kernels",
    "model",
    "training",
    "compression",
    "artifact",
)
ORDER += ("evaluation", "serving", "report", "recipe", "recipes", "running", "runner", "submission")
ORDER += ("doctor", "show", "cli", "__main__")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
READS_ENVIRONMENT = "training/ranks.py"


def module_of(path: Path) -> tuple[str, ...]:
    """Dotted name of a source file in parts, e.g. ("bytegolf", "text", "split"); packages by their folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def absolute(name: str, level: int, module: tuple[str, ...], is_package: bool) -> tuple[str, ...]:
    """The full dotted name behind a possibly relative one (`level` leading dots) written in `module`."""
    tail = tuple(part for part in name.split(".") if part)
    if level == 0:
        return tail
    return module[: len(module) - level + (1 if is_package else 0)] + tail


def imported(
    tree: ast.AST, module: tuple[str, ...], is_package: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and full name of everything a file may import, at any depth and under any condition.

    `from a import b` yields a.b, since b may be a module. A call of `import_module` or `__import__` counts by
    the part of its name that is written out, and as "<computed>" where nothing is.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, absolute(alias.name, 0, module, is_package)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level, module, is_package)
            for alias in node.names:
                yield node.lineno, (*base, alias.name)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            name = written_name(node)
            dots = len(name) - len(name.lstrip("."))
            yield node.lineno, absolute(name[dots:], dots, module, is_package) or ("<computed>",)


def written_name(node: ast.Call) -> str:
    """The module name in a call of import_module: a literal, or the literal start of an f-string."""
    first = node.args[0] if node.args else None
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def violations(source: str, module: tuple[str, ...], is_package: bool) -> list[str]:
    """What in a file breaks the import direction, one line each."""
    found = []
    for line, target in imported(ast.parse(source), module, is_package):
        problem = forbidden(module, target)
        if problem:
            found.append(f"line {line}: {problem}")
    return found


def forbidden(module: tuple[str, ...], target: tuple[str, ...]) -> str:
    """Why `module` may not import `target`; empty when it may."""
    if target == ("<computed>",):
        return "imports a computed name, which no test can follow"
    if target[0] != "bytegolf" or len(module) == 1:
        return ""  # foreign code; or bytegolf/__init__.py, which hands out what stands below it
    if len(target) == 1 or target[1].startswith("__"):
        return "" if target[1:] == ("__version__",) else "imports the package itself instead of a part of it"
    own, other = module[1], target[1]
    if other not in ORDER:
        return f"imports bytegolf.{other}, which has no place in ORDER"
    if other in (own, "kernels") or ORDER.index(other) < ORDER.index(own):
        return ""
    return f"{own} imports {other}, which comes after it"


def reads_environment(source: str) -> list[int]:
    """Lines that touch the environment variables, by any usual spelling."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv"}
    lines = []
    for node in ast.walk(ast.parse(source)):
        attribute = isinstance(node, ast.Attribute) and node.attr in names
        name = (
            isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names}
        )
        if attribute or name:
            lines.append(node.lineno)
    return sorted(lines)


def long_functions(source: str) -> list[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [f"{name} ({length} lines)" for name, length in lengths if length > LONGEST_FUNCTION]


each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


@each_source
def test_imports_point_backwards(path: Path) -> None:
    found = violations(path.read_text(), module_of(path), path.name == "__init__.py")
    assert not found, f"{path.relative_to(ROOT)}: " + "; ".join(found)


@each_source
def test_every_module_has_a_place_in_the_order(path: Path) -> None:
    module = module_of(path)
    assert len(module) == 1 or module[1] in ORDER


@each_source
def test_only_the_ranks_module_reads_environment_variables(path: Path) -> None:
    if path != PACKAGE / READS_ENVIRONMENT:
        assert reads_environment(path.read_text()) == []


@each_source
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    assert long_functions(source) == []


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [str(path) for path in [*SOURCES, *ROOT.glob("tests/**/*.py")] if path.stem in drawers] == []


def test_every_kernel_has_a_plain_twin_and_a_test() -> None:
    operations = [
        folder
        for folder in sorted((PACKAGE / "kernels").iterdir())
        if folder.is_dir() and any(folder.glob("*.py"))
    ]
    for folder in operations:
        assert (folder / "reference.py").is_file(), f"{folder.name} has no reference.py"
        tests = list((ROOT / "tests" / "kernels").rglob("test_*.py"))
        mine = [test for test in tests if folder.name in (test.parent.name, test.stem.removeprefix("test_"))]
        assert mine, (
            f"{folder.name} has no test (tests/kernels/{folder.name}/ or tests/kernels/test_{folder.name}.py)"
        )


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("training.loop", False, "import bytegolf.compression.grid"),
        ("training.loop", False, "import numpy, bytegolf.runner as r"),
        ("training.loop", False, "from bytegolf import compression"),
        ("training.loop", False, "from bytegolf.compression import grid"),
        ("training.loop", False, "from ..compression import grid"),
        ("training.loop", False, "from .. import compression"),
        ("training", True, "from ..compression.grid import Grid"),
        ("text.split", False, "def f():\n    from bytegolf.tokens import batches"),
        (
            "text.split",
            False,
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bytegolf.model",
        ),
        ("text.split", False, "import importlib\nimportlib.import_module('bytegolf.cli')"),
        ("text.split", False, "import importlib\nimportlib.import_module('..cli', __package__)"),
        ("text.split", False, "__import__('bytegolf.model.stack')"),
        ("text.split", False, "import importlib\nimportlib.import_module(name)"),
        ("text.split", False, "import importlib\nimportlib.import_module(f'bytegolf.recipes.{name}')"),
        ("text.split", False, "import bytegolf"),
        ("text.split", False, "from bytegolf import load"),
        ("text.split", False, "import bytegolf.elsewhere"),
        ("recipe", False, "from bytegolf.recipes import pocket"),
    ],
)
def test_the_import_check_catches(module: str, is_package: bool, source: str) -> None:
    assert violations(source, ("bytegolf", *module.split(".")), is_package) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("compression.plan", "from bytegolf.training.loop import train"),
        ("compression.plan", "from .grid import Grid\nfrom ..errors import BudgetError"),
        ("text.split", "from bytegolf.kernels.attention.reference import attention"),
        ("text.split", "import numpy as np\nimport importlib\nimportlib.import_module('torch')"),
        ("cli", "from bytegolf import __version__"),
        ("runner", "import bytegolf.recipes.pocket"),
        ("runner", "import importlib\nimportlib.import_module(f'bytegolf.recipes.{name}')"),
    ],
)
def test_the_import_check_allows(module: str, source: str) -> None:
    assert violations(source, ("bytegolf", *module.split(".")), False) == []


def test_the_environment_check_knows_the_usual_spellings() -> None:
    source = "import os\nos.environ['A']\nos.getenv('A')\nfrom os import environ as e\n"
    assert reads_environment(source) == [2, 3, 4]


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their base names; two alike break the collection of one."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
