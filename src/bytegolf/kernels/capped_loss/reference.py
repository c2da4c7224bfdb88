"""The plain form: logits, soft cap in float32, negative log-likelihood of each target.

Shapes: N tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(z / cap), in float32 at least (Gemma 2, 2024); unchanged without a cap."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if cap is None else cap * torch.tanh(logits / cap)


def capped_cross_entropy(h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float | None) -> Tensor:
    """−log softmax(soft_cap(h tableᵀ))[target] in nats, (N,), float32 at least."""
    logits_NV = soft_cap(h_ND @ table_VD.to(h_ND.dtype).mT, cap)
    return torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
