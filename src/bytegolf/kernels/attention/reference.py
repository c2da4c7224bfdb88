"""The plain form of attention: a boolean mask and two matrix products."""

import torch
from torch import Tensor


def attention(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, allowed_BTS: Tensor) -> Tensor:
    """See `bytegolf.kernels.attention.attend`. 16-bit inputs give 16-bit scores, summed in float32."""
    groups, width = k_BSGK.shape[2], q_BTHK.shape[-1]
    q_BGRTK = q_BTHK.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    k_BG1KS = k_BSGK.permute(0, 2, 3, 1)[:, :, None]
    v_BG1SK = v_BSGK.permute(0, 2, 1, 3)[:, :, None]
    scores = (q_BGRTK * width**-0.5) @ k_BG1KS
    hidden = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~allowed_BTS[:, None, None], hidden)
    weights = torch.softmax(scores, dim=-1)
    return (weights @ v_BG1SK).permute(0, 3, 1, 2, 4).flatten(2, 3)
