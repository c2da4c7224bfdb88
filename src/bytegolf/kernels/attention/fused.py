"""Attention through torch's fused operator: no T × S matrix in memory, no mask where all keys are seen."""

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
    return _fused(q_BTHK, k_BSGK, v_BSGK, allowed_BTS[:, None])


def newest_attention(q_B1HK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor) -> Tensor:
    """One query a row that sees every key, (B, 1, H, K)."""
    return _fused(q_B1HK, k_BSGK, v_BSGK, None)


def _fused(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, allowed_B1TS: Tensor | None) -> Tensor:
    q_BHTK, k_BGSK, v_BGSK = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    grouped = q_BHTK.shape[1] != k_BGSK.shape[1]
    y_BHTK = torch.nn.functional.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=allowed_B1TS, enable_gqa=grouped
    )
    return y_BHTK.transpose(1, 2)
