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
    from_zero,
    head_of,
    in_order,
    keys_in_sight,
    load_rows,
    query_tile,
    scores,
)

#: Keys that one step looks through, tiles side by side: a maximum over all warps takes long, of any width.
_KEYS = 128
#: Queries of a part of a tile, which are rounded on their own: a warp's share of a product.
_PART = 16
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
def _largest_norm(x_ANK):
    """The largest ‖x‖ of the rows of each tile, rounded up."""
    return tl.sqrt(tl.max(tl.sum(x_ANK * x_ANK, axis=2), axis=1)) * _MORE


@triton.jit
def _rounded(x_RK, TILES: tl.constexpr):
    """Codes, and Δ and the largest ‖x‖, ‖x − x̃‖ and ‖x̃‖ of each of `TILES` tiles, one below the other."""
    rows: tl.constexpr = x_RK.shape[0] // TILES
    x_ANK = tl.reshape(x_RK.to(tl.float32), [TILES, rows, x_RK.shape[1]])
    step_A = tl.maximum(tl.max(tl.max(tl.abs(x_ANK), axis=2), axis=1), 1e-30) / 127.0
    step_ANK = tl.broadcast_to(step_A[:, None, None], x_ANK.shape)
    codes_ANK = tl.minimum(tl.maximum(tl.floor(x_ANK / step_ANK + 0.5), -127.0), 127.0)
    coarse_ANK = codes_ANK * step_ANK
    codes_RK = tl.reshape(codes_ANK.to(tl.int8), x_RK.shape)
    error_A = _largest_norm(x_ANK - coarse_ANK)
    return codes_RK, step_A, _largest_norm(x_ANK), error_A, _largest_norm(coarse_ANK)


@triton.jit
def _coarse_keys_kernel(k, tokens, groups, codes, steps, norms, errors, CUT: tl.constexpr):
    tile, group_of_all = tl.program_id(0), tl.program_id(1)
    keys = tile * CUT.keys + tl.arange(0, CUT.keys)
    begin = head_of(k, group_of_all // groups, group_of_all % groups)
    codes_SK, step, norm, error, _ = _rounded(load_rows(begin, keys, k.token, tokens, CUT), 1)
    columns = tl.arange(0, CUT.block)
    present = (keys < tokens)[:, None] & (columns < CUT.width)[None, :]
    place = (group_of_all.to(tl.int64) * tokens + keys)[:, None] * CUT.width + columns[None, :]
    tl.store(codes + place, codes_SK, mask=present)
    of_tile = group_of_all * tl.num_programs(0) + tile + tl.arange(0, 1)
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
    PARTS: tl.constexpr,
    TILES: tl.constexpr,
    PACKED: tl.constexpr,
    CUT: tl.constexpr,
):
    """The largest product of every part of every tile, and what `_rounded` measures of each part's queries.

    A part is what one warp holds of a product, so that none waits for another. Nothing else is in the loop:
    what the largest product says is cheap to ask of all tiles together.
    """
    tile, row, head, group, queries, _, _ = query_tile(sight, CUT)
    tokens, key_tiles = sight.tokens, tl.cdiv(sight.tokens, CUT.keys)
    group_of_all = row * sight.groups + group
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    lines_P = line * PARTS + tl.arange(0, PARTS)
    q_QK = load_rows(head_of(q, row, head), queries, q.token, tokens, CUT)
    if COARSE:
        q_QK, step_P, norm_P, error_P, coarse_P = _rounded(q_QK, PARTS)
        tl.store(of_queries + lines_P * 3, step_P)
        # Sums of K products in float32 are within K 2⁻²² ‖q‖ ‖k‖ of what they should be.
        tl.store(of_queries + lines_P * 3 + 1, error_P + norm_P * (CUT.block * 2.0**-22))
        tl.store(of_queries + lines_P * 3 + 2, coarse_P)
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
            products = in_order(scores(q_QK, load_rows(head_of(k, row, group), keys, k.token, tokens, CUT)))
        apart = tl.reshape(products, [PARTS, CUT.queries // PARTS, TILES, CUT.keys]).trans(0, 2, 1, 3)
        best_PJ = tl.max(tl.reshape(apart, [PARTS, TILES, CUT.queries // PARTS * CUT.keys]), axis=2)
        best_PJ = best_PJ.to(tl.float32) if COARSE else from_zero(best_PJ)
        place = lines_P[:, None] * key_tiles + tiles[None, :]
        tl.store(largest + place, best_PJ, mask=(tiles < outer)[None, :])


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
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PACKED: tl.constexpr,
    CUT: tl.constexpr,
):
    """Which tiles of a line are kept, by the largest products of their parts."""
    tile, row, _, group, _, bias, friction = query_tile(sight, CUT)
    key_tiles = tl.cdiv(sight.tokens, CUT.keys)
    of_keys = (row * sight.groups + group) * key_tiles
    line = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tile
    lines_P = line * PARTS + tl.arange(0, PARTS)
    _, inner, outer, _ = keys_in_sight(sight, row, tile, PACKED, CUT)
    for first in range(0, key_tiles, BLOCK):
        tiles = first + tl.arange(0, BLOCK)
        there = (tiles >= inner) & (tiles < outer)
        best_PJ = tl.load(
            largest + lines_P[:, None] * key_tiles + tiles[None, :], mask=there[None, :], other=0.0
        )
        cost_J = _least_cost(tile, tiles, bias, friction, CUT)
        if COARSE:
            step_P, error_P = tl.load(of_queries + lines_P * 3), tl.load(of_queries + lines_P * 3 + 1)
            coarse_P = tl.load(of_queries + lines_P * 3 + 2)
            norm_J = tl.load(norms + of_keys + tiles, mask=there, other=0.0)
            error_J = tl.load(errors + of_keys + tiles, mask=there, other=0.0)
            step_J = tl.load(steps + of_keys + tiles, mask=there, other=0.0)
            best_PJ = best_PJ * (step_P[:, None] * step_J[None, :])
            best_PJ += error_P[:, None] * norm_J[None, :] + coarse_P[:, None] * error_J[None, :]
            # In proportion too: large numbers are rounded by more.
            slack_J = ROUNDED * (1.0 + 2.0**-8 * (tl.abs(cost_J) + tl.abs(bias)))
        else:
            slack_J = tl.load(slack + tl.program_id(1))
        keep_J = there & (tl.max(best_PJ, axis=0) * sight.scale - cost_J + slack_J > 0.0)
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
    `slack` (`fused.rounding_of_scores`) scores are computed in 16 bits instead: no tile is kept for nothing
    unless bias is above 0, and products take twice as long.
    """
    q = edges.q_BTHK
    size = (edges.heads, edges.query_tiles, edges.key_tiles)
    flags = torch.empty(size, dtype=torch.int8, device=q.device)
    parts = max(1, edges.tiles.queries // _PART)
    largest = torch.empty((edges.heads, edges.query_tiles * parts, edges.key_tiles), device=q.device)
    coarse = slack is None
    codes, steps, norms, errors = _parts(coarse_keys(edges)) if coarse else (None,) * 4
    of_queries = torch.empty((*largest.shape[:2], 3), device=q.device) if coarse else None
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
        PARTS=parts,
        TILES=max(1, _KEYS // edges.tiles.keys),
        PACKED=packed,
        CUT=cut,
        num_warps=max(4, parts),
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
        PARTS=parts,
        BLOCK=256,
        PACKED=packed,
        CUT=cut,
        num_warps=1,
    )
    return flags


def _parts(keys: CoarseKeys) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return keys.codes, keys.steps, keys.norms, keys.errors
