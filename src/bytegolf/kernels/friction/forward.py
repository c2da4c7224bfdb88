"""The forward pass on GPUs: no running maximum, no denominator, and no work for tiles without an edge.

Three arms that give the same bits: `DENSE` weighs every edge of every tile, `EARLY` leaves a tile once its
largest score is known to be below the least friction in it, two tiles at a time, `LISTED` is told the tiles
with edges. In a tile left out all weights are +0, which a sum that began at +0 does not notice.

Shapes: B rows, T tokens, H query heads, G key/value heads, K head width, I tiles of queries, J tiles of keys.
"""

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.launch import Edges, Laid
from bytegolf.kernels.friction.lists import TileLists
from bytegolf.kernels.friction.tile import (
    ROUNDED,
    first_keys,
    keys_in_sight,
    load_tile,
    log2,
    margins,
    of_both_ends,
    open_margins,
    query_tile,
    scores,
    store_head,
    table_of,
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
def _both_larger(a_near, a_far, b_near, b_far):
    return tl.maximum(a_near, b_near), tl.maximum(a_far, b_far)


@triton.jit
def _two_scores(q_QK, k_wide_SK, KEYS: tl.constexpr):
    """Scores of two tiles side by side, and the largest of each: all warps wait for one another only once."""
    wide = scores(q_QK, k_wide_SK)
    near, far = tl.split(tl.permute(tl.reshape(wide, [wide.shape[0], 2, KEYS]), (0, 2, 1)))
    rows = tl.reduce((near, far), 1, _both_larger)
    best_near, best_far = tl.reduce(rows, 0, _both_larger)
    return near, far, best_near, best_far


@triton.jit
def _with_tile(y_QK, taken_Q, x, v_SK, GATE: tl.constexpr):
    """What is read and taken so far, and what the edges of one more tile add to both."""
    w, _ = weights_and_slopes(x, GATE)
    if GATE.normalized:
        # A thread has every eighth column: what it adds up here is its own, and no thread waits for another.
        parts: tl.constexpr = x.shape[1] // 16
        taken_Q += tl.sum(tl.reshape(w, [w.shape[0], parts, 16]), axis=1)
    return tl.dot(w.to(v_SK.dtype), v_SK, y_QK, input_precision="ieee"), taken_Q


@triton.jit
def _with_hidden_tiles(
    read,
    q_QK,
    k,
    v,
    sight,
    place,
    first_Q,
    PACKED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    CUT: tl.constexpr,
    GATE: tl.constexpr,
):
    """`read` and what the tiles add of which something is hidden, at both ends: no arm leaves them out."""
    tile, row, head, begin, inner, outer, end = place
    y_QK, taken_Q = read
    group, queries = head // (sight.heads // sight.groups), tile * CUT.queries + tl.arange(0, CUT.queries)
    bias, friction = tl.load(sight.bias + head), tl.load(sight.friction + head)
    for index in range(begin, end - (outer - inner)):
        start = of_both_ends(index, inner, outer) * CUT.keys
        keys = start + tl.arange(0, CUT.keys)
        score = scores(q_QK, load_tile(k, row, group, start, keys, sight.tokens, DESCRIBED, CUT))
        x = margins(score, queries, start, first_Q, bias, friction, sight.scale, PACKED)
        v_SK = load_tile(v, row, group, start, keys, sight.tokens, DESCRIBED, CUT)
        y_QK, taken_Q = _with_tile(y_QK, taken_Q, x, v_SK, GATE)
    return y_QK, taken_Q


@triton.jit
def _with_likely_tiles(
    read,
    q_QK,
    k_wide,
    v,
    sight,
    place,
    marks,
    FLAGGED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    CUT: tl.constexpr,
    GATE: tl.constexpr,
):
    """`read` and what those tiles from inner to outer add that may have an edge."""
    tile, row, head, _, inner, outer, _ = place
    y_QK, taken_Q = read
    flags, slackness = marks
    group, table = head // (sight.heads // sight.groups), table_of(sight, head)
    bias, friction = tl.load(sight.bias + head), tl.load(sight.friction + head)
    for step in range(inner // 2, tl.cdiv(outer, 2)):
        start = 2 * step * CUT.keys
        wide_keys = start + tl.arange(0, 2 * CUT.keys)
        k_SK = load_tile(k_wide, row, group, start, wide_keys, sight.tokens, DESCRIBED, CUT)
        near, far, best_near, best_far = _two_scores(q_QK, k_SK, CUT.keys)
        for side in tl.static_range(2):
            key_tile = 2 * step + side
            cost = least_cost(tile, key_tile, bias, friction, CUT)
            reach = (best_near if side == 0 else best_far) * sight.scale - cost
            if (reach > -slackness) & (key_tile >= inner) & (key_tile < outer):
                begin = key_tile * CUT.keys
                keys = begin + tl.arange(0, CUT.keys)
                v_SK = load_tile(v, row, group, begin, keys, sight.tokens, False, CUT)
                score = near if side == 0 else far
                x = open_margins(score, table, tile * CUT.queries, begin, sight.scale)
                y_QK, taken_Q = _with_tile(y_QK, taken_Q, x, v_SK, GATE)
                if FLAGGED:
                    tl.store(flags + key_tile, 1)
    return y_QK, taken_Q


@triton.jit
def _with_tiles(
    read,
    q_QK,
    k,
    v,
    sight,
    place,
    listed,
    marks,
    LISTED: tl.constexpr,
    FLAGGED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    CUT: tl.constexpr,
    GATE: tl.constexpr,
):
    """`read` and what the tiles from inner to outer add, or those listed there."""
    tile, row, head, _, inner, outer, _ = place
    y_QK, taken_Q = read
    flags, slackness = marks
    group, table = head // (sight.heads // sight.groups), table_of(sight, head)
    for index in range(inner, outer):
        key_tile = tl.load(listed + index) if LISTED else index
        start = key_tile * CUT.keys
        keys = start + tl.arange(0, CUT.keys)
        score = scores(q_QK, load_tile(k, row, group, start, keys, sight.tokens, DESCRIBED, CUT))
        x = open_margins(score, table, tile * CUT.queries, start, sight.scale)
        v_SK = load_tile(v, row, group, start, keys, sight.tokens, DESCRIBED, CUT)
        y_QK, taken_Q = _with_tile(y_QK, taken_Q, x, v_SK, GATE)
        if FLAGGED:
            tl.store(flags + key_tile, (tl.max(x) > -slackness).to(tl.int8))
    return y_QK, taken_Q


@triton.jit
def _forward_kernel(
    q,
    k,
    v,
    k_wide,
    v_plain,
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
    tile, row, head, _, queries, _, _ = query_tile(sight, CUT)
    tokens, head_of_all = sight.tokens, tl.program_id(1).to(tl.int64)
    line = head_of_all * tl.num_programs(0) + tile
    begin, inner, outer, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    place = (tile, row, head, begin, inner, outer, end)
    q_QK = load_tile(q, row, head, tile * CUT.queries, queries, tokens, DESCRIBED, CUT)
    read = tl.zeros_like(q_QK).to(tl.float32), tl.zeros([q_QK.shape[0], 16], dtype=tl.float32)
    first_Q = first_keys(sight, row, queries, PACKED)
    read = _with_hidden_tiles(read, q_QK, k, v, sight, place, first_Q, PACKED, DESCRIBED, CUT, GATE)
    of_line = line * tl.cdiv(tokens, CUT.keys)
    marks = (flags + of_line, tl.load(slack + head_of_all)) if FLAGGED else (0, ROUNDED)
    if ARM == EARLY:
        read = _with_likely_tiles(
            read, q_QK, k_wide, v_plain, sight, place, marks, FLAGGED, DESCRIBED, CUT, GATE
        )
    else:
        if ARM == LISTED:
            place = (tile, row, head, 0, 0, tl.load(counts + line), 0)
            lists += of_line
        read = _with_tiles(
            read, q_QK, k, v, sight, place, lists, marks, ARM == LISTED, FLAGGED, DESCRIBED, CUT, GATE
        )
    y_QK, taken_Q = read
    if GATE.normalized:
        taken_Q = tl.sum(taken_Q, axis=1)
        tl.store(taken + head_of_all * tokens + queries, taken_Q, mask=queries < tokens)
        y_QK = y_QK * (most / tl.maximum(taken_Q, least))[:, None]
    store_head(y, row, head, queries, y_QK, tokens, sight.heads, CUT)


def forward(
    edges: Edges, arm: int, lists: TileLists | None = None, slack: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, H, K), what each query took (B·H, T), and flags (B·H, I, J) int8 of tiles with edges.

    Flags and lists are of tiles of which every query sees all keys; the others are visited in any case.

    taken: Σ w float32, empty where nothing is scaled by it. Flags are empty without `slack`, (B·H,), by which
    an x below 0 still counts: the backward pass computes it anew. `DENSE` flags tiles of which some x does;
    `EARLY`, which weighs no more than it must, those of which it could.
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
        k_wide=edges.of_keys(edges.k_BTGK, tiles=2),
        v_plain=Laid.of(edges.v_BTGK),
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
