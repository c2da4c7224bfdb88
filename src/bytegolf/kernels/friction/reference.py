"""The plain form of friction attention: every score, its weight, and two matrix products.

Shapes: B rows, T query tokens, S key tokens, H query heads, G key/value heads (G divides H), K head width.
"""

import torch
from torch import Tensor

from bytegolf.kernels.friction.gate import Rule


def friction(distance: Tensor) -> Tensor:
    """F = ln(max(i − j, 1)) of whole numbers of tokens, float32: 0 for a token itself and the one before."""
    return distance.clamp(min=1).to(torch.float32).log()


def margins(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    distance_TS: Tensor,
    allowed_BTS: Tensor,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
) -> Tensor:
    """x = q k / sqrt(K) + bias − weight · F, by which scores exceed their friction, (B, H, T, S).

    −∞ where a key is not allowed. In float32 at least, whatever the type of q and k, since an edge is there
    or not by the sign of x.
    """
    exact = torch.promote_types(q_BTHK.dtype, torch.float32)
    groups = k_BSGK.shape[2]
    q_BGRTK = q_BTHK.to(exact).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    k_BG1KS = k_BSGK.to(exact).permute(0, 2, 3, 1)[:, :, None]
    score_BHTS = (q_BGRTK @ k_BG1KS).flatten(1, 2) * q_BTHK.shape[-1] ** -0.5
    cost = friction(distance_TS).to(exact)
    if friction_H is not None:
        cost = friction_H.to(exact)[:, None, None] * cost
    if bias_H is not None:
        cost = cost - bias_H.to(exact)[:, None, None]
    return (score_BHTS - cost).masked_fill(~allowed_BTS[:, None], -torch.inf)


def friction_attention(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    distance_TS: Tensor,
    allowed_BTS: Tensor,
    rule: Rule,
    bias_H: Tensor | None = None,
    friction_H: Tensor | None = None,
) -> Tensor:
    """See `bytegolf.kernels.friction.friction_attend`."""
    x_BHTS = margins(q_BTHK, k_BSGK, distance_TS, allowed_BTS, bias_H, friction_H)
    w_BHTS = rule.weights(x_BHTS)
    y_BTHK = _read(w_BHTS, v_BSGK)
    if rule.capacity is not None:
        taken_BTH1 = w_BHTS.sum(dim=-1).mT[..., None]
        y_BTHK = y_BTHK * (rule.capacity / taken_BTH1.clamp(min=rule.capacity))
    return y_BTHK.to(q_BTHK.dtype)


def softmax_attention(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    distance_TS: Tensor,
    allowed_BTS: Tensor,
    friction_H: Tensor | None = None,
) -> Tensor:
    """softmax(q k / sqrt(K) − weight · F) v: the same costs, but every edge stays, (B, T, H, K)."""
    x_BHTS = margins(q_BTHK, k_BSGK, distance_TS, allowed_BTS, None, friction_H)
    return _read(torch.softmax(x_BHTS, dim=-1), v_BSGK).to(q_BTHK.dtype)


def _read(w_BHTS: Tensor, v_BSGK: Tensor) -> Tensor:
    """Σ_j w_ij v_j, (B, T, H, K), in the weights' precision."""
    w_BGRTS = w_BHTS.unflatten(1, (v_BSGK.shape[2], -1))
    v_BG1SK = v_BSGK.to(w_BHTS.dtype).permute(0, 2, 1, 3)[:, :, None]
    return (w_BGRTS @ v_BG1SK).flatten(1, 2).transpose(1, 2)
