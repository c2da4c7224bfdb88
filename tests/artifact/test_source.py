"""The source that counts is the whole import closure of evaluation and nothing that cannot run."""

import ast
import subprocess
import sys

import brotli

from bytegolf.artifact import source


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


def test_the_counted_bytes_hold_every_module_of_the_closure() -> None:
    roots = ("bytegolf.artifact",)
    data = source.compressed_source(roots)
    assert len(data) == source.source_bytes(roots)
    text = brotli.decompress(data).decode()
    ast.parse(text)
    for name in source.import_closure(roots):
        assert f"# {name}\n" in text
