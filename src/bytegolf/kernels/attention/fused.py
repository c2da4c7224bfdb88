"""Attention without gradients on CPUs through torch's fused operator: no T × S matrix in memory."""

import torch
from torch import Tensor

from bytegolf.kernels.attention.reference import allowed_keys


def fused_attention(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    *,
    document_BT: Tensor,
    key_document_BS: Tensor,
    positions_T: Tensor,
    key_positions_S: Tensor,
    window: int | None,
) -> Tensor:
    """See `bytegolf.kernels.attention.attend`."""
    allowed_BTS = allowed_keys(document_BT, key_document_BS, positions_T, key_positions_S, window)
    q_BHTK, k_BGSK, v_BGSK = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    grouped = q_BHTK.shape[1] != k_BGSK.shape[1]
    y_BHTK = torch.nn.functional.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=allowed_BTS[:, None], enable_gqa=grouped
    )
    return y_BHTK.transpose(1, 2)
