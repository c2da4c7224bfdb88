"""The plain form of packed causal attention: a boolean mask and two matrix products."""

import torch
from torch import Tensor


def allowed_keys(
    document_BT: Tensor,
    key_document_BS: Tensor,
    positions_T: Tensor,
    key_positions_S: Tensor,
    window: int | None,
) -> Tensor:
    """Which keys each query may see, (B, T, S) bool: same document, not later, within the window."""
    distance_TS = positions_T[:, None] - key_positions_S[None, :]
    near_TS = distance_TS >= 0
    if window is not None:
        near_TS = near_TS & (distance_TS <= window)
    return near_TS[None] & (document_BT[:, :, None] == key_document_BS[:, None, :])


def attention(
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
    """See `bytegolf.kernels.attention.attend`. 16-bit inputs give 16-bit scores, summed in float32."""
    groups, width = k_BSGK.shape[2], q_BTHK.shape[-1]
    allowed = allowed_keys(document_BT, key_document_BS, positions_T, key_positions_S, window)
    q_BGRTK = q_BTHK.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    k_BG1KS = k_BSGK.permute(0, 2, 3, 1)[:, :, None]
    v_BG1SK = v_BSGK.permute(0, 2, 1, 3)[:, :, None]
    scores = (q_BGRTK * width**-0.5) @ k_BG1KS
    hidden = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~allowed[:, None, None], hidden)
    weights = torch.softmax(scores, dim=-1)
    return (weights @ v_BG1SK).permute(0, 3, 1, 2, 4).flatten(2, 3)
