"""Friction attention over packed documents: weights from scores above their friction, without a softmax.

Shapes: B rows, T query tokens, S key tokens, H query heads, G key/value heads (G divides H), K head width.
Bodies: `reference` (anywhere), `fused` (CUDA GPUs, 16-bit, no memory yet: only tiles with edges are weighed),
`decode` (CUDA GPUs, 16-bit, one token a row: only keys with edges are read in full); the same tests.
"""

from typing import Any

import torch
from torch import Tensor

from bytegolf.kernels.attention import Segments
from bytegolf.kernels.attention.visibility import allowed_keys
from bytegolf.kernels.friction import reference
from bytegolf.kernels.friction.coarse import coarse_rows
from bytegolf.kernels.friction.gate import Form, Rule
from bytegolf.kernels.fused import FUSED_KERNELS, runs_fused

if FUSED_KERNELS:
    from bytegolf.kernels.friction.decode import friction_decode
    from bytegolf.kernels.friction.fused import fused_friction_attention

__all__ = ["Form", "Rule", "coarse_rows", "decodes_coarsely", "friction_attend"]

#: Without gradients, scores that the plain form has in memory at a time.
_SCORES = 2**26


def decodes_coarsely(q_BTHK: Tensor, rule: Rule | None) -> bool:
    """Whether decoding from such queries takes keys in 8 bits (`coarse_rows`) beside the keys themselves.

    With gradients too, though nothing reads them then: a memory must have them of all its keys.
    """
    return rule is not None and runs_fused(q_BTHK)


def friction_attend(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    *,
    rule: Rule | None,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    document_BT: Tensor,
    key_document_BS: Tensor,
    positions_T: Tensor,
    key_positions_S: Tensor,
    window: int | None,
    segments: Segments | None,
    coarse: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """c_i Σ_j w(x_ij) v_j with x_ij = q_i k_j / sqrt(K) + bias − weight · ln(max(i − j, 1)), (B, T, H, K).

    The sum is over keys of the query's document, not after it and, with a window w, at most w tokens before.
    c_i = min(1, capacity / Σ_j w_ij), 1 without a capacity; a query without an edge reads exactly 0. bias_H
    (0 if None) and friction_H, the friction's weight (1 if None), are learned numbers of each head. `rule`
    None: softmax instead of w, which a bias does not change. `segments` as for `attend`.
    coarse: `coarse_rows` of all keys, which lets the newest token of each row pass over most of them.
    """
    of_heads: dict[str, Any] = {"rule": rule, "bias_H": bias_H, "friction_H": friction_H, "window": window}
    if segments is not None and runs_fused(q_BTHK):
        return fused_friction_attention(q_BTHK, k_BSGK, v_BSGK, document_BT=document_BT, **of_heads)
    if coarse is not None and q_BTHK.shape[1] == 1 and not torch.is_grad_enabled():
        return friction_decode(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            coarse,
            document_B1=document_BT,
            key_document_BS=key_document_BS,
            position_1=positions_T,
            key_positions_S=key_positions_S,
            **of_heads,
        )
    allowed_BTS = allowed_keys(document_BT, key_document_BS, positions_T, key_positions_S, window)
    distance_TS = positions_T[:, None] - key_positions_S[None, :]
    rows = q_BTHK.shape[0]
    if not torch.is_grad_enabled():
        rows = max(1, _SCORES // (q_BTHK.shape[2] * distance_TS.numel()))
    read = []
    for q, k, v, allowed in zip(*(x.split(rows) for x in (q_BTHK, k_BSGK, v_BSGK, allowed_BTS)), strict=True):
        if rule is None:
            read.append(reference.softmax_attention(q, k, v, distance_TS, allowed, friction_H))
        else:
            read.append(reference.friction_attention(q, k, v, distance_TS, allowed, rule, bias_H, friction_H))
    return torch.cat(read)
