"""Cross-entropy of soft-capped logits.

Shapes: N tokens, D width, V vocabulary. Bodies: `reference` (anywhere), `chunked` (CPU: logits of a few
hundred tokens at a time, never stored), `triton` (CUDA GPUs, 16-bit: logits of a tile, never stored).
"""

from torch import Tensor

from bytegolf.kernels.capped_loss import reference
from bytegolf.kernels.capped_loss.chunked import (
    chunked_capped_cross_entropy,
    chunked_capped_cross_entropy_and_normalizer,
)
from bytegolf.kernels.capped_loss.reference import CapForm, soft_cap
from bytegolf.kernels.fused import FUSED_KERNELS, runs_fused

if FUSED_KERNELS:
    from bytegolf.kernels.capped_loss.triton import fused_capped_cross_entropy_and_normalizer

__all__ = ["CapForm", "capped_cross_entropy", "capped_cross_entropy_and_normalizer", "soft_cap"]


def capped_cross_entropy(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> Tensor:
    """−log softmax(soft_cap(h tableᵀ + bias))[target] in nats, (N,), float32 at least."""
    if h_ND.device.type == "cpu":
        return chunked_capped_cross_entropy(h_ND, table_VD, bias_V, targets_N, cap, form)
    if runs_fused(h_ND):
        return fused_capped_cross_entropy_and_normalizer(h_ND, table_VD, bias_V, targets_N, cap, form)[0]
    return reference.capped_cross_entropy(h_ND, table_VD, bias_V, targets_N, cap, form)


def capped_cross_entropy_and_normalizer(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> tuple[Tensor, Tensor]:
    """The same, and logsumexp(soft_cap(h tableᵀ + bias)), (N,), of which z-loss is the square."""
    if h_ND.device.type == "cpu":
        return chunked_capped_cross_entropy_and_normalizer(h_ND, table_VD, bias_V, targets_N, cap, form)
    if runs_fused(h_ND):
        return fused_capped_cross_entropy_and_normalizer(h_ND, table_VD, bias_V, targets_N, cap, form)
    return reference.capped_cross_entropy_and_normalizer(h_ND, table_VD, bias_V, targets_N, cap, form)
