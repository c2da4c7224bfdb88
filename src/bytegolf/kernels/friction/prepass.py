"""A pass over keys and queries in 8 bits that finds the tiles that may have edges, and never misses one.

Every tile of queries and of keys is rounded to a grid of its own, q̃ = Δ q̂ with whole q̂ from −127 to 127,
whose products are exact in 32 bits. By Cauchy and Schwarz the score is then within

    |q k − q̃ k̃| ≤ ‖q − q̃‖ ‖k‖ + ‖q̃‖ ‖k − k̃‖

of that, with the norms of what rounding took, measured, not estimated. A tile is kept if its largest q̃ k̃,
that bound with its largest norms, and what float32 may round off, together reach the least friction in it. A
kernel that does no more than this needs few registers, so that many run side by side, which one that goes on
to weigh edges cannot. Shapes: B rows, T tokens, H query heads, G key/value heads, K head width, I tiles of
queries, J tiles of keys.
"""

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.coarse import MORE
from bytegolf.kernels.friction.hardware import log2
from bytegolf.kernels.friction.launch import Edges, Laid
from bytegolf.kernels.friction.tile import (
    ROUNDED,
    head_of,
    keys_in_sight,
    load_rows,
    query_tile,
    scores,
)

#: Keys that one step looks through, tiles side by side: a maximum over all warps takes long, of any width.
_KEYS = 128
#: By how much more the norms count than they were computed to be: sums in float32 are this exact by far.
_MORE: tl.constexpr = tl.constexpr(MORE)


@dataclass(frozen=True)
class CoarseKeys:
    """codes (B·G, T, K) int8, and of each tile (B·G, J): Δ and the largest ‖k‖ and ‖k − k̃‖."""

    codes: Tensor
    steps: Tensor
    norms: Tensor
    errors: Tensor


@triton.jit
def _least_cost(tile, key_tile, bias, friction, CUT: tl.constexpr):
    """The least of friction · log₂ max(i − j, 1) − bias in a tile: friction may be of either sign."""
    nearest = tl.maximum(tile * CUT.queries - (key_tile * CUT.keys + CUT.keys - 1), 1)
    farthest = tl.maximum(tile * CUT.queries + CUT.queries - 1 - key_tile * CUT.keys, 1)
    near, far = friction * log2(nearest.to(tl.float32)), friction * log2(farthest.to(tl.float32))
    return tl.minimum(near, far) - bias


@triton.jit
def _rounded(x_NK):
    """Codes, Δ, and the largest ‖x‖, ‖x − x̃‖ and ‖x̃‖ of all rows, rounded up."""
    x_NK = x_NK.to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(x_NK)), 1e-30) / 127.0
    codes_NK = tl.minimum(tl.maximum(tl.floor(x_NK / step + 0.5), -127.0), 127.0)
    coarse_NK = codes_NK * step
    off_NK = x_NK - coarse_NK
    norm = tl.sqrt(tl.max(tl.sum(x_NK * x_NK, axis=1))) * _MORE
    error = tl.sqrt(tl.max(tl.sum(off_NK * off_NK, axis=1))) * _MORE
    coarse = tl.sqrt(tl.max(tl.sum(coarse_NK * coarse_NK, axis=1))) * _MORE
    return codes_NK.to(tl.int8), step, norm, error, coarse


@triton.jit
def _coarse_keys_kernel(k, tokens, groups, codes, steps, norms, errors, CUT: tl.constexpr):
    tile, group_of_all = tl.program_id(0), tl.program_id(1)
    keys = tile * CUT.keys + tl.arange(0, CUT.keys)
    begin = head_of(k, group_of_all // groups, group_of_all % groups)
    codes_SK, step, norm, error, _ = _rounded(load_rows(begin, keys, k.token, tokens, CUT))
    columns = tl.arange(0, CUT.block)
    present = (keys < tokens)[:, None] & (columns < CUT.width)[None, :]
    place = (group_of_all.to(tl.int64) * tokens + keys)[:, None] * CUT.width + columns[None, :]
    tl.store(codes + place, codes_SK, mask=present)
    of_tile = group_of_all * tl.num_programs(0) + tile
    tl.store(steps + of_tile, step)
    tl.store(norms + of_tile, norm)
    tl.store(errors + of_tile, error)


@triton.jit
def _largest_kernel(
    q,
    k,
    sight,
    codes,
    of_queries,
    largest,
    COARSE: tl.constexpr,
    TILES: tl.constexpr,
    PACKED: tl.constexpr,
    CUT: tl.constexpr,
):
    """The largest product of every tile, and of each tile of queries what `_rounded` measures of it.

    Nothing else is in the loop: what a tile's largest product says is cheap to ask of all tiles together.
    """
    tile, row, head, group, queries, _, _ = query_tile(sight, CUT)
    tokens, key_tiles = sight.tokens, tl.cdiv(sight.tokens, CUT.keys)
    group_of_all = row * sight.groups + group
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    q_QK = load_rows(head_of(q, row, head), queries, q.token, tokens, CUT)
    if COARSE:
        q_QK, step, norm, error, coarse = _rounded(q_QK)
        tl.store(of_queries + line * 3, step)
        # Sums of K products in float32 are within K 2⁻²² ‖q‖ ‖k‖ of what they should be.
        tl.store(of_queries + line * 3 + 1, error + norm * (CUT.block * 2.0**-22))
        tl.store(of_queries + line * 3 + 2, coarse)
    _, inner, outer, _ = keys_in_sight(sight, row, tile, PACKED, CUT)
    columns = tl.arange(0, CUT.block)
    for first in range(inner, outer, TILES):
        keys = first * CUT.keys + tl.arange(0, TILES * CUT.keys)
        tiles = first + tl.arange(0, TILES)
        if COARSE:
            place = (group_of_all.to(tl.int64) * tokens + keys)[:, None] * CUT.width + columns[None, :]
            present = (keys < tokens)[:, None] & (columns < CUT.width)[None, :]
            products = tl.dot(q_QK, tl.trans(tl.load(codes + place, mask=present, other=0)))
        else:
            products = scores(q_QK, load_rows(head_of(k, row, group), keys, k.token, tokens, CUT))
        apart = tl.reshape(products, [CUT.queries, TILES, CUT.keys]).trans(1, 0, 2)
        best_J = tl.max(tl.reshape(apart, [TILES, CUT.queries * CUT.keys]), axis=1)
        tl.store(largest + line * key_tiles + tiles, best_J.to(tl.float32), mask=tiles < outer)


@triton.jit
def _flag_kernel(
    sight,
    of_queries,
    largest,
    steps,
    norms,
    errors,
    slack,
    flags,
    COARSE: tl.constexpr,
    BLOCK: tl.constexpr,
    PACKED: tl.constexpr,
    CUT: tl.constexpr,
):
    """Which tiles of a line are kept, by their largest products."""
    tile, row, _, group, _, bias, friction = query_tile(sight, CUT)
    key_tiles = tl.cdiv(sight.tokens, CUT.keys)
    of_keys = (row * sight.groups + group) * key_tiles
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    _, inner, outer, _ = keys_in_sight(sight, row, tile, PACKED, CUT)
    for first in range(0, key_tiles, BLOCK):
        tiles = first + tl.arange(0, BLOCK)
        there = (tiles >= inner) & (tiles < outer)
        best_J = tl.load(largest + line * key_tiles + tiles, mask=there, other=0.0)
        cost_J = _least_cost(tile, tiles, bias, friction, CUT)
        if COARSE:
            step, error = tl.load(of_queries + line * 3), tl.load(of_queries + line * 3 + 1)
            coarse = tl.load(of_queries + line * 3 + 2)
            norm_J = tl.load(norms + of_keys + tiles, mask=there, other=0.0)
            error_J = tl.load(errors + of_keys + tiles, mask=there, other=0.0)
            step_J = tl.load(steps + of_keys + tiles, mask=there, other=0.0)
            best_J = best_J * (step * step_J) + error * norm_J + coarse * error_J
            # In proportion too: large numbers are rounded by more.
            slack_J = ROUNDED * (1.0 + 2.0**-8 * (tl.abs(cost_J) + tl.abs(bias)))
        else:
            slack_J = tl.load(slack + tl.program_id(1))
        keep_J = there & (best_J * sight.scale - cost_J + slack_J > 0.0)
        tl.store(flags + line * key_tiles + tiles, keep_J.to(tl.int8), mask=tiles < key_tiles)


def coarse_keys(edges: Edges) -> CoarseKeys:
    """The keys in 8 bits, a tile at a time."""
    k = edges.k_BTGK
    tokens, width = k.shape[1], k.shape[-1]
    of_tiles = (edges.groups, edges.key_tiles)
    found = CoarseKeys(
        torch.empty((edges.groups, tokens, width), dtype=torch.int8, device=k.device),
        *(torch.empty(of_tiles, device=k.device) for _ in range(3)),
    )
    _coarse_keys_kernel[(edges.key_tiles, edges.groups)](
        Laid.of(k), tokens, k.shape[2], *_parts(found), CUT=edges.tiles.cut(width), num_warps=4
    )
    return found


def tiles_with_edges(edges: Edges, slack: Tensor | None = None) -> Tensor:
    """(B·H, I, J) int8: 1 for all tiles in which x of some edge may be above 0, as any kernel here has it.

    Of those in which every query sees every key: the others, which are visited in any case, have 0. With
    `slack` (`fused.rounding_of_scores`) scores are computed in 16 bits instead: no tile is kept for nothing,
    and products take twice as long.
    """
    q = edges.q_BTHK
    size = (edges.heads, edges.query_tiles, edges.key_tiles)
    flags = torch.empty(size, dtype=torch.int8, device=q.device)
    largest = torch.empty(size, device=q.device)
    coarse = slack is None
    codes, steps, norms, errors = _parts(coarse_keys(edges)) if coarse else (None,) * 4
    of_queries = torch.empty((*size[:2], 3), device=q.device) if coarse else None
    cut, packed = edges.tiles.cut(q.shape[-1]), edges.first_BT is not None
    grid = (edges.query_tiles, edges.heads)
    _largest_kernel[grid](
        Laid.of(q),
        Laid.of(edges.k_BTGK),
        edges.sight,
        codes,
        of_queries,
        largest,
        COARSE=coarse,
        TILES=max(1, _KEYS // edges.tiles.keys),
        PACKED=packed,
        CUT=cut,
        num_warps=4,
        num_stages=3,
    )
    _flag_kernel[grid](
        edges.sight,
        of_queries,
        largest,
        steps,
        norms,
        errors,
        slack,
        flags,
        COARSE=coarse,
        BLOCK=256,
        PACKED=packed,
        CUT=cut,
        num_warps=1,
    )
    return flags


def _parts(keys: CoarseKeys) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return keys.codes, keys.steps, keys.norms, keys.errors
