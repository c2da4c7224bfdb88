"""The source that counts is the whole import closure of evaluation and nothing that cannot run."""

import ast
import bz2
import json
import subprocess
import sys

import pytest

from bytegolf.artifact import source
from bytegolf.submission import launcher


def test_the_closure_covers_what_an_import_loads() -> None:
    """What Python itself loads is the independent answer; the closure may hold more."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, bytegolf.artifact.container, bytegolf.artifact.source, bytegolf.compression.plan;"
            "print(*[name for name in sys.modules if name.split('.')[0] == 'bytegolf'])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    closure = source.import_closure(
        ("bytegolf.artifact.container", "bytegolf.artifact.source", "bytegolf.compression.plan")
    )
    assert set(loaded) <= set(closure)
    assert "bytegolf.model.roles" in closure
    assert not [name for name in closure if name.startswith(("bytegolf.report", "bytegolf.training"))]


def test_imports_that_do_not_run_are_not_followed() -> None:
    text = (
        "import a\nif TYPE_CHECKING:\n    import b\n\n\ndef f():\n    import c\n\n\nclass D:\n    import e\n"
    )

    def names(*, functions: bool) -> list[str]:
        nodes = source._running(ast.parse(text), functions=functions)
        return sorted(alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)

    assert names(functions=True) == ["a", "c", "e"]
    assert names(functions=False) == ["a", "e"]


def test_a_folder_stands_for_all_its_modules() -> None:
    closure = source.import_closure(("bytegolf.artifact",))
    assert {"bytegolf", "bytegolf.artifact", "bytegolf.artifact.coding", "bytegolf.errors"} <= set(closure)


def test_stripping_removes_words_and_keeps_the_program() -> None:
    text = (
        '"""Module."""\nX = "kept"  # gone\n\n\nclass A:\n    """Words."""\n\n\n'
        'def f():\n    """Words."""\n    "a lone string that is no docstring"\n    return "kept"\n'
    )
    stripped = source.stripped(text)
    assert "Words" not in stripped
    assert "Module" not in stripped
    assert "gone" not in stripped
    space: dict = {}
    exec(compile(stripped, "stripped", "exec"), space)
    assert space["f"]() == space["X"] == "kept"
    assert space["A"].__doc__ is None


def packed(script: bytes) -> dict[str, str]:
    """What a script's launcher would unpack."""
    assigned = (node for node in ast.parse(script).body if isinstance(node, ast.Assign))
    (text,) = (node.value for node in assigned if ast.unparse(node.targets[0]) == "SOURCES")
    return json.loads(bz2.decompress(ast.literal_eval(text).encode("latin-1")))


def test_the_counted_bytes_are_a_script_that_holds_every_module_of_the_closure() -> None:
    roots = ("bytegolf.artifact",)
    script = source.script(roots)
    assert len(script) == source.source_bytes(roots)
    ast.parse(script)
    sources = packed(script)
    assert sources == source.files(roots)
    assert len(sources) == len(source.import_closure(roots))
    for name in source.import_closure(roots):
        part = name.replace(".", "/")
        assert {f"{part}.py", f"{part}/__init__.py"} & sources.keys()
    for text in sources.values():
        ast.parse(text)


def test_files_that_modules_read_travel_with_them() -> None:
    assert "bytegolf/report/style.css" in source.files(("bytegolf.report.page",))
    assert not [name for name in source.files((source.EVALUATION,)) if not name.endswith(".py")]


def test_evaluation_is_a_part_of_what_ships_and_learns_from_text() -> None:
    whole, evaluation = (
        set(source.import_closure((root,))) for root in (source.SUBMISSION, source.EVALUATION)
    )
    assert evaluation < whole
    assert "bytegolf.evaluation.adaptation.lora" in evaluation
    assert "bytegolf.runner" in whole - evaluation
    assert not [name for name in evaluation if name.startswith(("bytegolf.report", "bytegolf.running"))]
    assert source.source_bytes((source.EVALUATION,)) < source.source_bytes()


@pytest.mark.parametrize(
    ("root", "needs"),
    [(source.EVALUATION, launcher.EVALUATION_NEEDS), (source.SUBMISSION, launcher.TRAINING_NEEDS)],
)
def test_the_launcher_asks_for_every_package_that_importing_needs(root: str, needs: tuple[str, ...]) -> None:
    found = set()
    for text in (text for name, text in source.files((root,)).items() if name.endswith(".py")):
        for node in source._running(ast.parse(text), functions=False):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    # Kernels ask themselves whether there is a compiler for them.
    assert found - set(sys.stdlib_module_names) - {"bytegolf", "triton"} == set(needs)
