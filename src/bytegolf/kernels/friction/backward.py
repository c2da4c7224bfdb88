"""The backward pass on GPUs: two kernels without atomic additions, each over the tiles that have edges.

Both compute x anew as the forward pass did, and sum in ascending order: gradients are the same bits whether
tiles without an edge are visited or not.

Shapes: B rows, T tokens, H query heads, G key/value heads, K head width.
"""

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.hardware import log2
from bytegolf.kernels.friction.launch import Edges
from bytegolf.kernels.friction.lists import TileLists
from bytegolf.kernels.friction.tile import (
    distances,
    first_keys,
    keys_in_sight,
    load_tile,
    margins_of,
    of_both_ends,
    queries_in_sight,
    query_tile,
    scores,
    store_head,
    table_of,
)
from bytegolf.kernels.friction.weights import weights_and_slopes


@dataclass(frozen=True)
class Gradients:
    """Those of queries, keys and values, and of each query's bias and friction (B, H, T) if asked for."""

    q_BTHK: Tensor
    k_BTGK: Tensor
    v_BTGK: Tensor
    bias_BHT: Tensor
    friction_BHT: Tensor


@triton.jit
def _margin_slopes(x, y_gradient_QK, v_SK, share_Q, pull_Q, GATE: tl.constexpr):
    """What each edge weighs, and the gradient of its x: (c G v − G y / r) w′, the last where r is capped."""
    w, slope = weights_and_slopes(x, GATE)
    w_gradient = tl.dot(y_gradient_QK, tl.trans(v_SK), input_precision="ieee")
    if GATE.normalized:
        pull = tl.broadcast_to(pull_Q[:, None], x.shape)
        w_gradient = tl.fma(w_gradient, tl.broadcast_to(share_Q[:, None], x.shape), -pull)
        w = w * share_Q[:, None]
    return w, w_gradient * slope


@triton.jit
def _scaling(shares, pulls, places, present, GATE: tl.constexpr):
    """What each query's weights are scaled by, and what it pulls all of their gradients down by."""
    if GATE.normalized:
        share_Q = tl.load(shares + places, mask=present, other=0.0)
        pull_Q = tl.load(pulls + places, mask=present, other=0.0)
    else:
        share_Q, pull_Q = 1.0, 0.0
    return share_Q, pull_Q


@triton.jit
def _query_kernel(
    q,
    k,
    v,
    sight,
    y_gradient,
    shares,
    pulls,
    lists,
    counts,
    q_gradient,
    bias_gradient,
    friction_gradient,
    LISTED: tl.constexpr,
    LEARNED: tl.constexpr,
    PACKED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    tile, row, head, group, queries, bias, friction = query_tile(sight, CUT)
    tokens, begin_of_queries, table = sight.tokens, tile * CUT.queries, table_of(sight, head)
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    begin, inner, outer, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    first_Q = first_keys(sight, row, queries, PACKED)
    q_QK = load_tile(q, row, head, begin_of_queries, queries, tokens, DESCRIBED, CUT)
    dy_QK = load_tile(y_gradient, row, head, begin_of_queries, queries, tokens, DESCRIBED, CUT)
    places, present = tl.program_id(1).to(tl.int64) * tokens + queries, queries < tokens
    share_Q, pull_Q = _scaling(shares, pulls, places, present, GATE)
    dq_QK = tl.zeros_like(q_QK).to(tl.float32)
    bias_gradient_Q = tl.zeros_like(queries).to(tl.float32)
    friction_gradient_Q = tl.zeros_like(queries).to(tl.float32)
    for part in tl.static_range(2):
        # First what is partly hidden, at both ends, then what all queries see: as the forward pass does.
        low, high = begin, end - (outer - inner)
        if part == 1:
            low, high = inner, outer
            if LISTED:
                low, high = 0, tl.load(counts + line)
        for index in range(low, high):
            if part == 0:
                key_tile = of_both_ends(index, inner, outer)
            else:
                key_tile = tl.load(lists + line * tl.cdiv(tokens, CUT.keys) + index) if LISTED else index
            start = key_tile * CUT.keys
            keys = start + tl.arange(0, CUT.keys)
            k_SK = load_tile(k, row, group, start, keys, tokens, DESCRIBED, CUT)
            v_SK = load_tile(v, row, group, start, keys, tokens, DESCRIBED, CUT)
            at = (queries, begin_of_queries, start, first_Q)
            x = margins_of(scores(q_QK, k_SK), table, at, bias, friction, sight.scale, part == 0, PACKED)
            _, dx = _margin_slopes(x, dy_QK, v_SK, share_Q, pull_Q, GATE)
            dq_QK = tl.dot(dx.to(k_SK.dtype), k_SK, dq_QK, input_precision="ieee")
            if LEARNED:
                bits = log2(tl.maximum(distances(queries, start, CUT.keys), 1.0))
                bias_gradient_Q += tl.sum(dx, axis=1)
                friction_gradient_Q -= tl.sum(dx * bits, axis=1)
    store_head(q_gradient, row, head, queries, dq_QK * sight.scale, tokens, sight.heads, CUT)
    if LEARNED:
        tl.store(bias_gradient + places, bias_gradient_Q, mask=present)
        tl.store(friction_gradient + places, friction_gradient_Q, mask=present)


@triton.jit
def _key_kernel(
    q,
    k,
    v,
    sight,
    y_gradient,
    shares,
    pulls,
    last,
    lists,
    counts,
    k_gradient,
    v_gradient,
    LISTED: tl.constexpr,
    PACKED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    # Those with most queries are the first.
    key_tile, row, group = tl.program_id(0), tl.program_id(1) // sight.groups, tl.program_id(1) % sight.groups
    tokens, shared = sight.tokens, sight.heads // sight.groups
    start = key_tile * CUT.keys
    keys = start + tl.arange(0, CUT.keys)
    k_SK = load_tile(k, row, group, start, keys, tokens, DESCRIBED, CUT)
    v_SK = load_tile(v, row, group, start, keys, tokens, DESCRIBED, CUT)
    begin, inner, outer, end = queries_in_sight(sight, last, row, key_tile, PACKED, CUT)
    dk_SK, dv_SK = tl.zeros_like(k_SK).to(tl.float32), tl.zeros_like(k_SK).to(tl.float32)
    for each in range(shared):
        head = group * shared + each
        head_of_all = (row * sight.heads + head).to(tl.int64)
        bias, friction = tl.load(sight.bias + head), tl.load(sight.friction + head)
        table = table_of(sight, head)
        line = head_of_all * tl.num_programs(0) + key_tile
        for part in tl.static_range(2):
            low, high = begin, end - (outer - inner)
            if part == 1:
                low, high = inner, outer
                if LISTED:
                    low, high = 0, tl.load(counts + line)
            for index in range(low, high):
                if part == 0:
                    tile = of_both_ends(index, inner, outer)
                else:
                    tile = tl.load(lists + line * tl.cdiv(tokens, CUT.queries) + index) if LISTED else index
                begin_of_queries = tile * CUT.queries
                queries = begin_of_queries + tl.arange(0, CUT.queries)
                first_Q = first_keys(sight, row, queries, PACKED)
                places, present = head_of_all * tokens + queries, queries < tokens
                share_Q, pull_Q = _scaling(shares, pulls, places, present, GATE)
                q_QK = load_tile(q, row, head, begin_of_queries, queries, tokens, DESCRIBED, CUT)
                dy_QK = load_tile(y_gradient, row, head, begin_of_queries, queries, tokens, DESCRIBED, CUT)
                score = scores(q_QK, k_SK)
                at = (queries, begin_of_queries, start, first_Q)
                x = margins_of(score, table, at, bias, friction, sight.scale, part == 0, PACKED)
                w, dx = _margin_slopes(x, dy_QK, v_SK, share_Q, pull_Q, GATE)
                dv_SK = tl.dot(tl.trans(w.to(q_QK.dtype)), dy_QK, dv_SK, input_precision="ieee")
                dk_SK = tl.dot(tl.trans(dx.to(q_QK.dtype)), q_QK, dk_SK, input_precision="ieee")
    store_head(k_gradient, row, group, keys, dk_SK * sight.scale, tokens, sight.groups, CUT)
    store_head(v_gradient, row, group, keys, dv_SK, tokens, sight.groups, CUT)


def backward(
    edges: Edges,
    y_gradient_BTHK: Tensor,
    y_BTHK: Tensor,
    taken: Tensor,
    lists: TileLists | None,
    *,
    learned: bool,
) -> Gradients:
    """From the gradient of y; y and taken as the forward pass gave them. Without lists all tiles are visited.

    learned: whether the gradients of bias and friction are asked for; they are empty otherwise. Friction's is
    that of the kernels' own, for log₂.
    """
    q, k, v = edges.q_BTHK, edges.k_BTGK, edges.v_BTGK
    rows, tokens, heads, _ = q.shape
    shares, pulls = _scaling_terms(edges, y_gradient_BTHK, y_BTHK, taken)
    shared = {
        **edges.arguments,
        "y_gradient": edges.of_queries(y_gradient_BTHK),
        "shares": shares,
        "pulls": pulls,
        "LISTED": lists is not None,
    }
    found = [x.new_empty(x.shape) for x in (q, k, v)]
    of_heads = [q.new_empty((rows, heads, tokens) if learned else 0, dtype=torch.float32) for _ in range(2)]
    _query_kernel[(edges.query_tiles, edges.heads)](
        **shared,
        lists=None if lists is None else lists.keys,
        counts=None if lists is None else lists.key_counts,
        q_gradient=found[0],
        bias_gradient=of_heads[0],
        friction_gradient=of_heads[1],
        LEARNED=learned,
    )
    _key_kernel[(edges.key_tiles, edges.groups)](
        **shared,
        last=edges.last_BT,
        lists=None if lists is None else lists.queries,
        counts=None if lists is None else lists.query_counts,
        k_gradient=found[1],
        v_gradient=found[2],
    )
    return Gradients(*found, *of_heads)


def _scaling_terms(
    edges: Edges, y_gradient_BTHK: Tensor, y_BTHK: Tensor, taken: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """C / max(r, least), and G y / r where r is more than that, 0 elsewhere, (B·H, T) float32 each."""
    if edges.bound is None:
        return None, None
    most, least = edges.bound
    product_BTH = (y_gradient_BTHK.float() * y_BTHK.float()).sum(dim=-1)
    product = product_BTH.transpose(1, 2).flatten(0, 1)
    pulls = torch.where(taken > least, product / taken, 0.0)
    return most / taken.clamp(min=least), pulls.contiguous()
