"""Attention through torch's fused operator: no T × S matrix in memory, no mask where all keys are seen."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

#: cuDNN is left out: it makes a plan for every new number of keys, 50 ms each while decoding.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def fused_attention(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, allowed_BTS: Tensor | None) -> Tensor:
    """See `bytegolf.kernels.attention.attend`; without `allowed_BTS` every query sees every key."""
    k_BGSK, v_BGSK = k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2)
    rows, tokens, heads, width = q_BTHK.shape
    groups = k_BSGK.shape[2]
    mask = None if allowed_BTS is None else allowed_BTS[:, None]
    one = tokens == 1
    # With one token, the heads that share keys stand in for tokens: keys are then read once for all of them.
    queries = q_BTHK.reshape(rows, groups, -1, width) if one else q_BTHK.transpose(1, 2)
    with sdpa_kernel(_BACKENDS) if q_BTHK.is_cuda else nullcontext():
        y = torch.nn.functional.scaled_dot_product_attention(
            queries, k_BGSK, v_BGSK, attn_mask=mask, enable_gqa=not one and heads != groups
        )
    return y.reshape(rows, 1, heads, width) if one else y.transpose(1, 2)
