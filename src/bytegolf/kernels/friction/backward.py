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

from bytegolf.kernels.friction.launch import Edges, Laid
from bytegolf.kernels.friction.lists import TileLists
from bytegolf.kernels.friction.tile import (
    first_keys,
    head_of,
    keys_in_sight,
    load_head,
    load_rows,
    margins,
    query_tile,
    scores,
    store_head,
    weights_and_slopes,
)


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
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    tile, row, head, group, queries, first_Q, bias, friction = query_tile(sight, PACKED, CUT)
    tokens, key_tiles = sight.tokens, tl.cdiv(sight.tokens, CUT.keys)
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    if LISTED:
        begin, end = 0, tl.load(counts + line)
    else:
        begin, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    q_QK = load_head(q, row, head, queries, tokens, CUT)
    y_gradient_QK = load_head(y_gradient, row, head, queries, tokens, CUT)
    places = tl.program_id(1).to(tl.int64) * tokens + queries
    share_Q = tl.load(shares + places, mask=queries < tokens, other=0.0) if GATE.normalized else 1.0
    pull_Q = tl.load(pulls + places, mask=queries < tokens, other=0.0) if GATE.normalized else 0.0
    q_gradient_QK = tl.zeros_like(q_QK).to(tl.float32)
    bias_gradient_Q = tl.zeros_like(queries).to(tl.float32)
    friction_gradient_Q = tl.zeros_like(queries).to(tl.float32)
    for index in range(begin, end):
        key_tile = tl.load(lists + line * key_tiles + index) if LISTED else index
        keys = key_tile * CUT.keys + tl.arange(0, CUT.keys)
        k_SK = load_rows(head_of(k, row, group), keys, k.token, tokens, CUT)
        v_SK = load_rows(head_of(v, row, group), keys, v.token, tokens, CUT)
        score = scores(q_QK, k_SK)
        x, bits = margins(score, queries, keys, first_Q, bias, friction, sight.scale, PACKED)
        _, x_gradient = _margin_slopes(x, y_gradient_QK, v_SK, share_Q, pull_Q, GATE)
        q_gradient_QK = tl.dot(x_gradient.to(k_SK.dtype), k_SK, q_gradient_QK, input_precision="ieee")
        if LEARNED:
            bias_gradient_Q += tl.sum(x_gradient, axis=1)
            friction_gradient_Q -= tl.sum(x_gradient * bits, axis=1)
    store_head(q_gradient, row, head, queries, q_gradient_QK * sight.scale, tokens, sight.heads, CUT)
    if LEARNED:
        tl.store(bias_gradient + places, bias_gradient_Q, mask=queries < tokens)
        tl.store(friction_gradient + places, friction_gradient_Q, mask=queries < tokens)


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
    GATE: tl.constexpr,
    CUT: tl.constexpr,
):
    # Those with most queries are the first.
    key_tile = tl.program_id(0)
    row, group = tl.program_id(1) // sight.groups, tl.program_id(1) % sight.groups
    tokens, shared = sight.tokens, sight.heads // sight.groups
    keys = key_tile * CUT.keys + tl.arange(0, CUT.keys)
    k_SK = load_head(k, row, group, keys, tokens, CUT)
    v_SK = load_head(v, row, group, keys, tokens, CUT)
    query_tiles = tl.cdiv(tokens, CUT.queries)
    end_of_all = tokens
    if PACKED:
        end_of_all = tl.load(last + row * tokens + tl.minimum((key_tile + 1) * CUT.keys, tokens) - 1)
    k_gradient_SK = tl.zeros_like(k_SK).to(tl.float32)
    v_gradient_SK = tl.zeros_like(k_SK).to(tl.float32)
    for each in range(shared):
        head = group * shared + each
        head_of_all = row * sight.heads + head
        bias, friction = tl.load(sight.bias + head), tl.load(sight.friction + head)
        line = head_of_all.to(tl.int64) * tl.num_programs(0) + key_tile
        if LISTED:
            begin, end = 0, tl.load(counts + line)
        else:
            begin, end = key_tile * CUT.keys // CUT.queries, tl.cdiv(end_of_all, CUT.queries)
        for index in range(begin, end):
            tile = tl.load(lists + line * query_tiles + index) if LISTED else index
            queries = tile * CUT.queries + tl.arange(0, CUT.queries)
            present = queries < tokens
            first_Q = first_keys(sight, row, queries, PACKED)
            places = head_of_all.to(tl.int64) * tokens + queries
            share_Q = tl.load(shares + places, mask=present, other=0.0) if GATE.normalized else 1.0
            pull_Q = tl.load(pulls + places, mask=present, other=0.0) if GATE.normalized else 0.0
            q_QK = load_head(q, row, head, queries, tokens, CUT)
            y_gradient_QK = load_head(y_gradient, row, head, queries, tokens, CUT)
            score = scores(q_QK, k_SK)
            x, _ = margins(score, queries, keys, first_Q, bias, friction, sight.scale, PACKED)
            w, x_gradient = _margin_slopes(x, y_gradient_QK, v_SK, share_Q, pull_Q, GATE)
            w, x_gradient = w.to(q_QK.dtype), x_gradient.to(q_QK.dtype)
            v_gradient_SK = tl.dot(tl.trans(w), y_gradient_QK, v_gradient_SK, input_precision="ieee")
            k_gradient_SK = tl.dot(tl.trans(x_gradient), q_QK, k_gradient_SK, input_precision="ieee")
    store_head(k_gradient, row, group, keys, k_gradient_SK * sight.scale, tokens, sight.groups, CUT)
    store_head(v_gradient, row, group, keys, v_gradient_SK, tokens, sight.groups, CUT)


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
        "y_gradient": Laid.of(y_gradient_BTHK),
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
