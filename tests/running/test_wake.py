"""What takes long to start is started behind the reading of text."""

import subprocess
import sys

import pytest

_SCRIPT = """
import sys, torch
from bytegolf.running.wake import wake
assert "torch._inductor.compile_fx" not in sys.modules
thread = wake(torch.device("cpu"), compiles={compiles})
thread.join()
print("torch._inductor.compile_fx" in sys.modules)
"""


@pytest.mark.parametrize("compiles", [True, False])
def test_the_compiler_is_loaded_only_where_it_is_used(compiles: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(compiles=compiles)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(compiles)]
