"""Where fused kernels can be tried: on a CUDA GPU, or on any processor by Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/kernels

On a GPU each width and setting is compiled anew, for a second or so: there every setting is tried at one
width, every shape with one setting, and other tests keep to what these have compiled.

With Triton installed this runs their tests without a GPU, in float32 and float16: the interpreter's products
of bfloat16 are wrong.
"""

import importlib.util
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from bytegolf.kernels.fused import FUSED_KERNELS


def _device() -> str | None:
    if FUSED_KERNELS and torch.cuda.is_available():
        return "cuda"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
    return "cpu" if interpreted else None


def _allow_loops_between_loaded_bounds() -> None:
    """Triton 3.6's interpreter turns arrays of one number into bounds in a way that numpy 2.4 refuses."""
    from triton.runtime import interpreter  # type: ignore[import-not-found]

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


DEVICE = _device()
if DEVICE == "cpu":
    _allow_loops_between_loaded_bounds()
#: A GPU takes its fused kernels in 16 bits alone, and needs long to compile them for float32.
TYPES = [torch.bfloat16] if DEVICE == "cuda" else [torch.float32, torch.float16]
#: What laws other than that of precision are tried in, and how far sums in another order may differ there.
PLAIN = TYPES[0]
ROUNDING = 2e-2 if DEVICE == "cuda" else 1e-5

needs_fused = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE is None, reason="needs a CUDA GPU with Triton, or Triton's interpreter"),
]


def chosen(shapes: list[Any], settings: list[Any]) -> list[tuple[Any, Any]]:
    """All pairs; on a GPU every setting with the first shape, every shape with the first setting."""
    pairs = list(itertools.product(shapes, settings))
    return [(a, b) for a, b in pairs if DEVICE != "cuda" or a == shapes[0] or b == settings[0]]


@contextmanager
def new_tensors_without_numbers() -> Iterator[None]:
    """Within it torch fills new tensors with not-a-number, so that what is never written shows."""
    # A property that torch puts on the module itself.
    memory: Any = torch.utils.deterministic
    filled, before = memory.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = True
    try:
        assert torch.empty(1, device=DEVICE).isnan().all()
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """‖ours − exact‖ / ‖exact‖."""
    difference = ours.detach().double() - exact.detach()
    return float(difference.norm() / exact.detach().norm())
