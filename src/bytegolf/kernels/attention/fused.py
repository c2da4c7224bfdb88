"""Attention through torch's fused operator: no T × S matrix in memory, no mask where all keys are seen."""

import torch
from torch import Tensor


def fused_attention(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, allowed_BTS: Tensor | None) -> Tensor:
    """See `bytegolf.kernels.attention.attend`; without `allowed_BTS` every query sees every key."""
    q_BHTK, k_BGSK, v_BGSK = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    y_BHTK = torch.nn.functional.scaled_dot_product_attention(
        q_BHTK,
        k_BGSK,
        v_BGSK,
        attn_mask=None if allowed_BTS is None else allowed_BTS[:, None],
        enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
    )
    return y_BHTK.transpose(1, 2)
