"""The forward pass on GPUs: no running maximum, no denominator, and no work for tiles without an edge.

Three arms that give the same bits: `DENSE` weighs every edge of every tile, `EARLY` leaves a tile once its
largest score is known to be below the least friction in it, `LISTED` is told the tiles
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
    head_of,
    keys_in_sight,
    largest_from_zero,
    load_directly,
    load_tile,
    margins,
    of_both_ends,
    open_margins,
    query_tile,
    scores,
    store_head,
    table_of,
)
from bytegolf.kernels.friction.weights import weights

DENSE: tl.constexpr = tl.constexpr(0)
EARLY: tl.constexpr = tl.constexpr(1)
LISTED: tl.constexpr = tl.constexpr(2)


@triton.jit
def _with_tile(y_QK, taken_Q, x, v_SK, GATE: tl.constexpr):
    """What is read and taken so far, and what the edges of one more tile add to both."""
    w = weights(x, GATE)
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
    k,
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
    values = head_of(v, row, group)
    for key_tile in range(inner, outer):
        start = key_tile * CUT.keys
        keys = start + tl.arange(0, CUT.keys)
        # Of all edges the nearest or the farthest one costs least, as friction may be of either sign.
        nearest = tl.maximum(tile * CUT.queries - (start + CUT.keys - 1), 1)
        farthest = tile * CUT.queries + CUT.queries - 1 - start
        cheapest = tl.maximum(tl.load(table - nearest), tl.load(table - farthest))
        score = scores(q_QK, load_tile(k, row, group, start, keys, sight.tokens, DESCRIBED, CUT))
        if largest_from_zero(score) * sight.scale + cheapest > -slackness:
            first = values + start.to(tl.int64) * v.token
            v_SK = load_directly(first, v.token, start, sight.tokens, DESCRIBED, CUT)
            x = open_margins(score, table, tile * CUT.queries, start, sight.scale)
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
        read = _with_likely_tiles(read, q_QK, k, v_plain, sight, place, marks, FLAGGED, DESCRIBED, CUT, GATE)
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
        # Before Hopper addresses take registers of their own, and with so few left sums would be spilled.
        maxnreg=edges.tiles.registers if edges.described else None,
    )
    return y, taken, flags
