"""What may stand in a plan for a role: the ways in which its matrices are stored.

Each of them has `quantize`, which gives what the file holds, `fake_quantize`, the same values with a
straight-through gradient, `steps`, how far apart neighbouring values are, and `describe`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bytegolf.compression.floats import Float8, Float16
from bytegolf.compression.grid import Grid, Quantized
from bytegolf.compression.rotation import rotated
from bytegolf.compression.ternary import Binary, Ternary

Storage = Grid | Ternary | Binary | Float16 | Float8
#: A tensor as the artifact holds it.
Stored = Quantized | Tensor


def shaken(storage: Storage, weight_RC: Tensor, noise_RC: Tensor) -> Tensor:
    """The weights moved by `noise_RC` steps of their storage; those of a rotated grid are steps of W Q."""
    moved_RC = noise_RC * storage.steps(weight_RC)
    return weight_RC + (rotated(moved_RC) if isinstance(storage, Grid) and storage.rotated else moved_RC)


def dequantized(stored: Stored) -> Tensor:
    """The float32 values that a stored tensor stands for."""
    return stored.dequantize() if isinstance(stored, Quantized) else stored.to(torch.float32)


def dequantize_model(compressed: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The float32 parameters that an artifact stands for, by name."""
    return {name: dequantized(tensor) for name, tensor in compressed.items()}
