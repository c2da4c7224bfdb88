"""Causal attention over packed documents, with an optional window and fewer key/value heads than query heads.

Shapes: B rows, T query tokens, S key tokens, H query heads, G key/value heads (G divides H), K head width.
Bodies: `reference` (anywhere), `fused` (without gradients: on CPUs, single tokens
anywhere), `varlen` (CUDA GPUs, 16-bit, no memory yet), `flash4` (in place of `varlen` while training, where
flash-attn-4 is installed); the same tests.
"""

import torch
from torch import Tensor

from bytegolf.kernels.attention.flash4 import flash4_attention, runs_flash4
from bytegolf.kernels.attention.fused import fused_attention
from bytegolf.kernels.attention.reference import attention as reference_attention
from bytegolf.kernels.attention.varlen import Segments, segments_from_starts, varlen_attention
from bytegolf.kernels.attention.visibility import allowed_keys

__all__ = ["Segments", "attend", "segments_from_starts"]


def attend(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    *,
    document_BT: Tensor,
    key_document_BS: Tensor,
    positions_T: Tensor,
    key_positions_S: Tensor,
    window: int | None,
    segments: Segments | None,
    newest_only: bool = False,
) -> Tensor:
    """softmax(q kᵀ / sqrt(K)) v over the allowed keys, (B, T, H, K).

    A key is allowed if it is in the query's document, not after it, and, with a window w, at most w
    tokens before it. `segments` describe the same documents for the packed kernel; without them the
    reference runs. `newest_only`: there is one query a row, in the document of all keys and after them.
    """
    if segments is not None and q_BTHK.element_size() == 2:
        if runs_flash4(q_BTHK):
            return flash4_attention(q_BTHK, k_BSGK, v_BSGK, segments=segments, window=window)
        return varlen_attention(q_BTHK, k_BSGK, v_BSGK, segments=segments, window=window)
    if newest_only and (window is None or k_BSGK.shape[1] <= window + 1):
        return fused_attention(q_BTHK, k_BSGK, v_BSGK, None)
    allowed_BTS = allowed_keys(document_BT, key_document_BS, positions_T, key_positions_S, window)
    if not torch.is_grad_enabled() and (q_BTHK.device.type == "cpu" or q_BTHK.shape[1] == 1):
        return fused_attention(q_BTHK, k_BSGK, v_BSGK, allowed_BTS)
    return reference_attention(q_BTHK, k_BSGK, v_BSGK, allowed_BTS)
