"""What takes long to start is started behind the reading of text."""

import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch

from bytegolf.running.wake import wake

_SCRIPT = """
import sys, torch
from bytegolf.running.wake import wake
wake(torch.device("cpu"), compiles=False).join()
print("torch._inductor.compile_fx" in sys.modules)
"""


def test_the_compiler_is_left_alone_where_it_is_not_used() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("compiles", [True, False])
def test_the_compiler_is_loaded_only_where_it_is_used(
    compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", asked.append)
        wake(torch.device("cpu"), compiles=compiles).join()
    assert asked == ["torch._inductor.compile_fx"] * compiles
    assert all(map(importlib.util.find_spec, asked))
