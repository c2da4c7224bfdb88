"""Root-mean-square normalization without weights, over the last dimension.

Bodies: `reference` (anywhere; on GPUs the compiler fuses it), `saved` (CPU: fewer passes over memory).
"""

from torch import Tensor

from bytegolf.kernels.rms_norm.reference import rms_norm as reference_rms_norm
from bytegolf.kernels.rms_norm.saved import rms_norm as saved_rms_norm

__all__ = ["rms_norm"]


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + 2⁻²³) over the last dimension (Zhang & Sennrich 2019)."""
    return saved_rms_norm(x) if x.device.type == "cpu" else reference_rms_norm(x)
