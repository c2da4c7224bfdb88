"""Cross-entropy of soft-capped logits.

Shapes: N tokens, D width, V vocabulary. Bodies: `reference` (anywhere; on GPUs the compiler fuses it),
`chunked` (CPU: logits of a few hundred tokens at a time, never stored).
"""

from torch import Tensor

from bytegolf.kernels.capped_loss.chunked import chunked_capped_cross_entropy
from bytegolf.kernels.capped_loss.reference import capped_cross_entropy as reference_capped_cross_entropy
from bytegolf.kernels.capped_loss.reference import soft_cap

__all__ = ["capped_cross_entropy", "soft_cap"]


def capped_cross_entropy(h_ND: Tensor, table_VD: Tensor, targets_N: Tensor, cap: float | None) -> Tensor:
    """−log softmax(soft_cap(h tableᵀ))[target] in nats, (N,), float32 at least."""
    if h_ND.device.type == "cpu":
        return chunked_capped_cross_entropy(h_ND, table_VD, targets_N, cap)
    return reference_capped_cross_entropy(h_ND, table_VD, targets_N, cap)
