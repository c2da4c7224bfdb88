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
    first_keys,
    keys_in_sight,
    load_tile,
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
def least_cost(tile, key_tile, bias, friction, CUT: tl.constexpr):
    """The least of friction · log₂ max(i − j, 1) − bias in a tile: friction may be of either sign."""
    nearest = tl.maximum(tile * CUT.queries - (key_tile * CUT.keys + CUT.keys - 1), 1)
    farthest = tl.maximum(tile * CUT.queries + CUT.queries - 1 - key_tile * CUT.keys, 1)
    near, far = friction * log2(nearest.to(tl.float32)), friction * log2(farthest.to(tl.float32))
    return tl.minimum(near, far) - bias


@triton.jit
def _with_tile(y_QK, taken_Q, x, v_SK, GATE: tl.constexpr):
    """What is read and taken so far, and what the edges of one more tile add to both."""
    w, _ = weights_and_slopes(x, GATE)
    w = w.to(v_SK.dtype)
    if GATE.normalized:
        ones_S = tl.full([x.shape[1], 16], 1.0, dtype=v_SK.dtype)
        taken_Q = tl.dot(w, ones_S, taken_Q, input_precision="ieee")
    return tl.dot(w, v_SK, y_QK, input_precision="ieee"), taken_Q


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
    DESCRIBED: tl.constexpr,
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    tile, row, head, group, queries, bias, friction = query_tile(sight, CUT)
    tokens = sight.tokens
    line = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile) * tl.cdiv(tokens, CUT.keys)
    begin, inner, outer, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    first_Q = first_keys(sight, row, queries, PACKED)
    q_QK = load_tile(q, row, head, tile * CUT.queries, queries, tokens, DESCRIBED, CUT)
    y_QK, taken_Q = tl.zeros_like(q_QK).to(tl.float32), tl.zeros([q_QK.shape[0], 16], dtype=tl.float32)
    # Tiles of which something is hidden, at both ends, are few: no arm leaves them out.
    for index in range(begin, end - (outer - inner)):
        start = (index if index < inner else index + (outer - inner)) * CUT.keys
        keys = start + tl.arange(0, CUT.keys)
        score = scores(q_QK, load_tile(k, row, group, start, keys, tokens, DESCRIBED, CUT))
        x, _ = margins(score, queries, start, first_Q, bias, friction, sight.scale, True, PACKED)
        v_SK = load_tile(v, row, group, start, keys, tokens, DESCRIBED, CUT)
        y_QK, taken_Q = _with_tile(y_QK, taken_Q, x, v_SK, GATE)
    slackness = tl.load(slack + tl.program_id(1)) if FLAGGED else 2.0**-12
    if ARM == LISTED:
        inner, outer = 0, tl.load(counts + tl.program_id(1) * tl.num_programs(0) + tile)
    for index in range(inner, outer):
        key_tile = tl.load(lists + line + index) if ARM == LISTED else index
        start = key_tile * CUT.keys
        keys = start + tl.arange(0, CUT.keys)
        score = scores(q_QK, load_tile(k, row, group, start, keys, tokens, DESCRIBED, CUT))
        if ARM == EARLY:
            alive = tl.max(score) * sight.scale - least_cost(tile, key_tile, bias, friction, CUT) > -slackness
        else:
            alive = True
        if alive:
            x, _ = margins(score, queries, start, first_Q, bias, friction, sight.scale, False, PACKED)
            v_SK = load_tile(v, row, group, start, keys, tokens, DESCRIBED, CUT)
            y_QK, taken_Q = _with_tile(y_QK, taken_Q, x, v_SK, GATE)
            if FLAGGED:
                tl.store(flags + line + key_tile, (tl.max(x) > -slackness).to(tl.int8))
    if GATE.normalized:
        taken_Q = tl.max(taken_Q, axis=1)
        place = tl.program_id(1).to(tl.int64) * tokens + queries
        tl.store(taken + place, taken_Q, mask=queries < tokens)
        y_QK = y_QK * (most / tl.maximum(taken_Q, least))[:, None]
    store_head(y, row, head, queries, y_QK, tokens, sight.heads, CUT)


def forward(
    edges: Edges, arm: int, lists: TileLists | None = None, slack: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, H, K), what each query took (B·H, T), and flags (B·H, I, J) int8 of tiles with edges.

    Flags and lists are of tiles of which every query sees all keys; the others are visited in any case.

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
