"""Root-mean-square normalization without weights."""

import torch
from torch import Tensor

_EPSILON = 2.0**-23


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + 2⁻²³) over the last dimension (Zhang & Sennrich 2019).

    The constant is fixed: torch's default follows the tensor's type, and bfloat16's (2⁻⁷) would swallow a
    freshly started embedding, whose mean square is 2.5e-5.
    """
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=_EPSILON)
