"""A pass over keys and queries in 8 bits that finds the tiles that may have edges, and never misses one.

Every tile of queries and of keys is rounded to a grid of its own, q̃ = Δ q̂ with whole q̂ from −127 to 127,
whose products are exact in 32 bits. By Cauchy and Schwarz the score is then within

    |q k − q̃ k̃| ≤ ‖q − q̃‖ ‖k‖ + ‖q̃‖ ‖k − k̃‖

of that, with the norms of what rounding took, measured, not estimated. A tile is kept if for any of its keys
the largest q̃ k̃ of its queries, that bound and what float32 may round off, together reach the friction of the
nearest query (the farthest, where friction is negative). Shapes: B rows, T tokens, H query heads, G key/value
heads, K head width, I tiles of queries, J tiles of keys.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.launch import Edges
from bytegolf.kernels.friction.tile import (
    keys_in_sight,
    load_head,
    log2,
    query_tile,
)

#: By how much more the norms count than they were computed to be: sums in float32 are this exact by far.
_MORE: tl.constexpr = tl.constexpr(1.0 + 2.0**-10)
#: What rounding may add to x beside the product: of scale, bias and logarithm.
_ROUNDED: tl.constexpr = tl.constexpr(2.0**-12)


@dataclass(frozen=True)
class CoarseKeys:
    """codes (B·G, T, K) int8; steps (B·G, J), Δ of each tile; norms and errors (B·G, T): ‖k‖ and ‖k − k̃‖."""

    codes: Tensor
    steps: Tensor
    norms: Tensor
    errors: Tensor


@triton.jit
def _rounded(x_NK):
    """Codes as float32, Δ, and by row ‖x‖, ‖x − x̃‖ and ‖x̃‖, the last three rounded up."""
    x_NK = x_NK.to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(x_NK)), 1e-30) / 127.0
    codes_NK = tl.minimum(tl.maximum(tl.floor(x_NK / step + 0.5), -127.0), 127.0)
    coarse_NK = codes_NK * step
    off_NK = x_NK - coarse_NK
    norm_N = tl.sqrt(tl.sum(x_NK * x_NK, axis=1)) * _MORE
    error_N = tl.sqrt(tl.sum(off_NK * off_NK, axis=1)) * _MORE
    coarse_N = tl.sqrt(tl.sum(coarse_NK * coarse_NK, axis=1)) * _MORE
    return codes_NK, step, norm_N, error_N, coarse_N


@triton.jit
def _coarse_keys_kernel(k, tokens, groups, codes, steps, norms, errors, CUT: tl.constexpr):
    tile, group_of_all = tl.program_id(0), tl.program_id(1)
    keys = tile * CUT.keys + tl.arange(0, CUT.keys)
    k_SK = load_head(k, group_of_all // groups, group_of_all % groups, keys, tokens, CUT)
    codes_SK, step, norm_S, error_S, _ = _rounded(k_SK)
    columns = tl.arange(0, CUT.block)
    present = (keys < tokens)[:, None] & (columns < CUT.width)[None, :]
    begin = group_of_all.to(tl.int64) * tokens
    tl.store(
        codes + begin * CUT.width + keys[:, None] * CUT.width + columns[None, :],
        codes_SK.to(tl.int8),
        mask=present,
    )
    tl.store(steps + group_of_all * tl.num_programs(0) + tile, step)
    tl.store(norms + begin + keys, norm_S, mask=keys < tokens)
    tl.store(errors + begin + keys, error_S, mask=keys < tokens)


@triton.jit
def _flag_kernel(q, sight, codes, steps, norms, errors, flags, PACKED: tl.constexpr, CUT: tl.constexpr):
    tile, row, head, group, queries, _, bias, friction = query_tile(sight, PACKED, CUT)
    tokens, key_tiles = sight.tokens, tl.cdiv(sight.tokens, CUT.keys)
    group_of_all = row * sight.groups + group
    begin_of_keys = group_of_all.to(tl.int64) * tokens
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    q_QK = load_head(q, row, head, queries, tokens, CUT)
    codes_QK, step, norm_Q, error_Q, coarse_Q = _rounded(q_QK)
    codes_QK = codes_QK.to(tl.int8)
    # Of the whole tile, so that each key adds one number.
    error, coarse = tl.max(error_Q), tl.max(coarse_Q)
    rounding = tl.max(norm_Q) * (CUT.block * 2.0**-22)
    begin, end = keys_in_sight(sight, row, tile, PACKED, CUT)
    columns = tl.arange(0, CUT.block)
    for key_tile in range(begin, end):
        keys = key_tile * CUT.keys + tl.arange(0, CUT.keys)
        place = (begin_of_keys + keys)[:, None] * CUT.width + columns[None, :]
        present = (keys < tokens)[:, None] & (columns < CUT.width)[None, :]
        codes_SK = tl.load(codes + place, mask=present, other=0)
        best_S = tl.max(tl.dot(codes_QK, tl.trans(codes_SK)), axis=0).to(tl.float32)
        norm_S = tl.load(norms + begin_of_keys + keys, mask=keys < tokens, other=0.0)
        error_S = tl.load(errors + begin_of_keys + keys, mask=keys < tokens, other=0.0)
        key_step = tl.load(steps + group_of_all * key_tiles + key_tile)
        bound_S = best_S * (step * key_step) + (error + rounding) * norm_S + coarse * error_S
        nearest_S = tl.maximum(tile * CUT.queries - keys, 1).to(tl.float32)
        farthest_S = tl.maximum(tile * CUT.queries + CUT.queries - 1 - keys, 1).to(tl.float32)
        cost_S = tl.minimum(friction * log2(nearest_S), friction * log2(farthest_S)) - bias
        # In proportion too: large scores are rounded by more.
        slack_S = _ROUNDED * (1.0 + 2.0**-8 * (tl.abs(cost_S) + tl.abs(bias)))
        keep = tl.max(bound_S * sight.scale - cost_S + slack_S) > 0.0
        tl.store(flags + line * key_tiles + key_tile, keep.to(tl.int8))


def coarse_keys(edges: Edges) -> CoarseKeys:
    """The keys in 8 bits, a tile at a time."""
    k = edges.k_BTGK
    tokens, width = k.shape[1], k.shape[-1]
    found = CoarseKeys(
        torch.empty((edges.groups, tokens, width), dtype=torch.int8, device=k.device),
        torch.empty((edges.groups, edges.key_tiles), device=k.device),
        torch.empty((edges.groups, tokens), device=k.device),
        torch.empty((edges.groups, tokens), device=k.device),
    )
    scores = edges.scores
    _coarse_keys_kernel[(edges.key_tiles, edges.groups)](
        scores["k"], tokens, k.shape[2], *_tensors(found), CUT=scores["CUT"], **edges.tiles.launch
    )
    return found


def tiles_with_edges(edges: Edges) -> Tensor:
    """(B·H, I, J) int8: 1 for all tiles in which x of some edge may be above 0, as any kernel here has it."""
    q = edges.q_BTHK
    flags = torch.zeros((edges.heads, edges.query_tiles, edges.key_tiles), dtype=torch.int8, device=q.device)
    scores = edges.scores
    del scores["k"]
    codes, steps, norms, errors = _tensors(coarse_keys(edges))
    _flag_kernel[(edges.query_tiles, edges.heads)](
        **scores, codes=codes, steps=steps, norms=norms, errors=errors, flags=flags
    )
    return flags


def _tensors(keys: CoarseKeys) -> tuple[Any, ...]:
    return keys.codes, keys.steps, keys.norms, keys.errors
