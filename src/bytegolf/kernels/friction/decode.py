"""One more token a row: keys are read in 8 bits, and in full only where their score may exceed its friction.

The bound is that of `prepass`, key by key. Keys are cut into parts at fixed places, whose sums are added in
order. Shapes: B rows, S places for keys, H query heads, G key/value heads, K head width, P parts.
"""

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.coarse import coarse_rows
from bytegolf.kernels.friction.costs import per_head
from bytegolf.kernels.friction.gate import Rule
from bytegolf.kernels.friction.hardware import log2
from bytegolf.kernels.friction.launch import Cut, Gate, Laid
from bytegolf.kernels.friction.tile import ROUNDED, head_of, load_rows
from bytegolf.kernels.friction.weights import weights

#: Keys of a part.
PART = 256


@triton.jit
def _candidates(keys, keep, codes, notes, row, group, coarse, cost_S, scale, CUT: tl.constexpr):
    """Which of `keep` have a score that may reach their cost. coarse: q̂, Δ, ‖q‖, ‖q − q̃‖ of the query."""
    codes_K, step, norm, error = coarse
    columns = tl.arange(0, CUT.block)
    present = keep[:, None] & (columns < CUT.width)[None, :]
    codes_SK = tl.load(
        head_of(codes, row, group) + keys[:, None] * codes.token + columns[None, :], mask=present, other=0
    )
    best_S = tl.sum(codes_SK.to(tl.int32) * codes_K.to(tl.int32)[None, :], axis=1).to(tl.float32)
    note = head_of(notes, row, group) + keys * notes.token
    step_S = tl.load(note, mask=keep, other=0.0)
    norm_S = tl.load(note + 1, mask=keep, other=0.0)
    error_S = tl.load(note + 2, mask=keep, other=0.0)
    rounding = norm * (CUT.block * 2.0**-22)
    bound_S = best_S * (step * step_S) + (error + rounding) * norm_S + (norm + error) * error_S
    slack_S = ROUNDED * (1.0 + 2.0**-8 * tl.abs(cost_S))
    return bound_S * scale - cost_S + slack_S > 0.0


# Code made for one value of the last would sum in another order.
@triton.jit(do_not_specialize=["read_all"])
def _decode_kernel(
    q,
    k,
    v,
    codes,
    notes,
    query_codes,
    query_notes,
    bias,
    friction,
    position,
    key_positions,
    document,
    key_documents,
    read,
    taken,
    places,
    heads,
    groups,
    window,
    scale,
    read_all,
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    part, row, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    group = head // (heads // groups)
    keys = part * CUT.keys + tl.arange(0, CUT.keys)
    there = keys < places
    distance = tl.load(position) - tl.load(key_positions + keys, mask=there, other=0)
    same = tl.load(key_documents + row * places + keys, mask=there, other=-1) == tl.load(document + row)
    keep = there & same & (distance >= 0) & (distance <= window)
    columns = tl.arange(0, CUT.block)
    within = columns < CUT.width
    q_K = tl.load(head_of(q, row, head) + columns, mask=within, other=0.0)
    bits_S = log2(tl.maximum(distance, 1).to(tl.float32))
    cost_S = tl.load(friction + head) * bits_S - tl.load(bias + head)
    codes_K = tl.load(head_of(query_codes, row, head) + columns, mask=within, other=0)
    note = head_of(query_notes, row, head)
    coarse = (codes_K, tl.load(note), tl.load(note + 1), tl.load(note + 2))
    likely = _candidates(keys, keep, codes, notes, row, group, coarse, cost_S, scale, CUT)
    keep = keep & (likely | (read_all > 0))
    rows = tl.where(keep, keys, places)
    k_SK = load_rows(head_of(k, row, group), rows, k.token, places, CUT)
    score_S = tl.sum(k_SK.to(tl.float32) * q_K.to(tl.float32)[None, :], axis=1)
    x_S = tl.fma(score_S, tl.full(score_S.shape, scale, tl.float32), -cost_S)
    w_S = weights(tl.where(keep, x_S, float("-inf")), GATE)
    v_SK = load_rows(head_of(v, row, group), tl.where(w_S > 0, keys, places), v.token, places, CUT)
    place = tl.program_id(1) * tl.num_programs(0) + part
    tl.store(read + place * CUT.block + columns, tl.sum(w_S[:, None] * v_SK.to(tl.float32), axis=0))
    tl.store(taken + place, tl.sum(w_S))


def friction_decode(
    q_B1HK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    coarse: tuple[Tensor, Tensor],
    *,
    rule: Rule,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    document_B1: Tensor,
    key_document_BS: Tensor,
    position_1: Tensor,
    key_positions_S: Tensor,
    window: int | None,
    part: int = PART,
    read_all: bool = False,
) -> Tensor:
    """What the newest token of each row reads, (B, 1, H, K); see `friction_attend`.

    coarse: `coarse_rows` of the keys. read_all: every key is read in full all the same, to the same result.
    """
    (rows, _, heads, width), device = q_B1HK.shape, q_B1HK.device
    places, groups = k_BSGK.shape[1:3]
    cut = Cut(1, part, width, max(16, triton.next_power_of_2(width)))
    parts = triton.cdiv(places, part)
    read = torch.empty((rows * heads, parts, cut.block), device=device)
    taken = torch.empty((rows * heads, parts), device=device)
    query_codes, query_notes = coarse_rows(q_B1HK)
    bias, friction = per_head(bias_H, friction_H, heads, device)
    _decode_kernel[(parts, rows * heads)](
        q=Laid.of(q_B1HK),
        k=Laid.of(k_BSGK),
        v=Laid.of(v_BSGK),
        codes=Laid.of(coarse[0]),
        notes=Laid.of(coarse[1]),
        query_codes=Laid.of(query_codes),
        query_notes=Laid.of(query_notes),
        bias=bias,
        friction=friction,
        position=position_1,
        key_positions=key_positions_S,
        document=document_B1.contiguous(),
        key_documents=key_document_BS.contiguous(),
        read=read,
        taken=taken,
        places=places,
        heads=heads,
        groups=groups,
        window=2**62 if window is None else window,
        scale=width**-0.5,
        read_all=int(read_all),
        GATE=Gate.of(rule),
        CUT=cut,
        num_warps=4,
    )
    y = read.sum(dim=1)[:, :width]
    if rule.capacity is not None:
        y = y * (rule.capacity / taken.sum(dim=1, keepdim=True).clamp(min=rule.capacity))
    return y.to(q_B1HK.dtype).view(rows, 1, heads, width)
