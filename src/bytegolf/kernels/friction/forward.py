"""The forward pass on GPUs: no running maximum, no denominator, and no work for tiles without an edge.

Three arms that give the same bits: `DENSE` weighs every edge of every tile, `EARLY` leaves a tile once its
largest score is known to be below the least friction in it, `LISTED` is told the tiles with edges. In a tile
left out all weights are +0, which a sum that began at +0 does not notice.

Shapes: B rows, T tokens, H query heads, G key/value heads, K head width, I tiles of queries, J tiles of keys.
"""

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.launch import Edges
from bytegolf.kernels.friction.lists import TileLists
from bytegolf.kernels.friction.tile import (
    head_of,
    keys_in_sight,
    load_head,
    load_rows,
    log2,
    margins,
    query_tile,
    scores,
    store_head,
    weights_and_slopes,
)

DENSE: tl.constexpr = tl.constexpr(0)
EARLY: tl.constexpr = tl.constexpr(1)
LISTED: tl.constexpr = tl.constexpr(2)


@triton.jit
def _least_cost(tile, key_tile, bias, friction, CUT: tl.constexpr):
    """The largest of bias − friction · log₂ max(i − j, 1) in a tile: friction may be of either sign."""
    nearest = tl.maximum(tile * CUT.queries - (key_tile * CUT.keys + CUT.keys - 1), 1)
    farthest = tl.maximum(tile * CUT.queries + CUT.queries - 1 - key_tile * CUT.keys, 1)
    near, far = friction * log2(nearest.to(tl.float32)), friction * log2(farthest.to(tl.float32))
    return bias - tl.minimum(near, far)


@triton.jit
def _forward_kernel(
    q,
    k,
    v,
    sight,
    y,
    taken,
    flags,
    slack,
    lists,
    counts,
    most,
    least,
    ARM: tl.constexpr,
    FLAGGED: tl.constexpr,
    PACKED: tl.constexpr,
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    tile, row, head, group, queries, first_Q, bias, friction = query_tile(sight, PACKED, CUT)
    tokens, key_tiles = sight.tokens, tl.cdiv(sight.tokens, CUT.keys)
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    if ARM == LISTED:
        begin, end = 0, tl.load(counts + line)
    else:
        begin, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    q_QK = load_head(q, row, head, queries, tokens, CUT)
    slackness = tl.load(slack + tl.program_id(1)) if FLAGGED else 1e-4
    y_QK = tl.zeros_like(q_QK).to(tl.float32)
    taken_Q = tl.zeros_like(queries).to(tl.float32)
    for index in range(begin, end):
        key_tile = tl.load(lists + line * key_tiles + index) if ARM == LISTED else index
        keys = key_tile * CUT.keys + tl.arange(0, CUT.keys)
        score = scores(q_QK, load_rows(head_of(k, row, group), keys, k.token, tokens, CUT))
        if ARM == EARLY:
            best = tl.max(score) * sight.scale + _least_cost(tile, key_tile, bias, friction, CUT)
            alive = best > -slackness
        else:
            alive = True
        if alive:
            x, _ = margins(score, queries, keys, first_Q, bias, friction, sight.scale, PACKED)
            w, _ = weights_and_slopes(x, GATE)
            v_SK = load_rows(head_of(v, row, group), keys, v.token, tokens, CUT)
            y_QK = tl.dot(w.to(v_SK.dtype), v_SK, y_QK, input_precision="ieee")
            if GATE.normalized:
                taken_Q += tl.sum(w, axis=1)
            if FLAGGED:
                live = (tl.max(x) > -slackness).to(tl.int8)
                tl.store(flags + line * key_tiles + key_tile, live)
    if GATE.normalized:
        place = tl.program_id(1).to(tl.int64) * tokens + queries
        tl.store(taken + place, taken_Q, mask=queries < tokens)
        y_QK = y_QK * (most / tl.maximum(taken_Q, least))[:, None]
    store_head(y, row, head, queries, y_QK, tokens, sight.heads, CUT)


def forward(
    edges: Edges, arm: int, lists: TileLists | None = None, slack: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, H, K), what each query took (B·H, T), and flags (B·H, I, J) int8 of tiles with edges.

    taken: Σ w float32, empty where nothing is scaled by it. Flags are empty without `slack`, (B·H,), by which
    an x below 0 still counts: the backward pass computes it anew.
    """
    q = edges.q_BTHK
    rows, tokens, heads, _ = q.shape
    bound, flagged = edges.bound, slack is not None
    y = q.new_empty(q.shape)
    taken = q.new_empty(0 if bound is None else (rows * heads, tokens), dtype=torch.float32)
    size = (edges.heads, edges.query_tiles, edges.key_tiles)
    flags = torch.zeros(size if flagged else 0, dtype=torch.int8, device=q.device)
    _forward_kernel[(edges.query_tiles, edges.heads)](
        **edges.arguments,
        y=y,
        taken=taken,
        flags=flags,
        slack=slack,
        lists=None if lists is None else lists.keys,
        counts=None if lists is None else lists.key_counts,
        most=0.0 if bound is None else bound[0],
        least=0.0 if bound is None else bound[1],
        ARM=arm,
        FLAGGED=flagged,
    )
    return y, taken, flags
