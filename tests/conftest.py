"""What tests of several folders share."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of benchmarks/ by name; `toy_recipes` of the contract tests is within reach too."""
    folder = Path(__file__).parent
    monkeypatch.syspath_prepend(str(folder.parent / "benchmarks"))
    monkeypatch.syspath_prepend(str(folder / "contract"))
    return importlib.import_module
