"""Where fused kernels can be tried: on a CUDA GPU, or on any processor by Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/kernels

With Triton installed this runs their tests without a GPU, in float32 and float16: the interpreter's products
of bfloat16 are wrong.
"""

import importlib.util
import os

import pytest
import torch

from bytegolf.kernels.fused import FUSED_KERNELS


def _device() -> str | None:
    if FUSED_KERNELS and torch.cuda.is_available():
        return "cuda"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
    return "cpu" if interpreted else None


DEVICE = _device()
TYPES = [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16]

needs_fused = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE is None, reason="needs a CUDA GPU with Triton, or Triton's interpreter"),
]


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """‖ours − exact‖ / ‖exact‖."""
    difference = ours.detach().double() - exact.detach()
    return float(difference.norm() / exact.detach().norm())
