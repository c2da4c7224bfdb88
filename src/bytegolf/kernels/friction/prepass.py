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
#: Tiles of queries that one program looks through, which halves what is read of keys.
_BESIDE = 2
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
    BESIDE: tl.constexpr,
    TILES: tl.constexpr,
    PACKED: tl.constexpr,
    CUT: tl.constexpr,
):
    """The largest product of every tile, and of each tile of queries what `_rounded` measures of it.

    Nothing else is in the loop: what a tile's largest product says is cheap to ask of all tiles together. A
    program is for `BESIDE` tiles of queries, whatever else they see, since each reads all keys before it.
    """
    tokens = sight.tokens
    query_tiles, key_tiles = tl.cdiv(tokens, CUT.queries), tl.cdiv(tokens, CUT.keys)
    first_tile = (tl.num_programs(0) - 1 - tl.program_id(0)) * BESIDE
    last_tile = tl.minimum(first_tile + BESIDE, query_tiles) - 1
    row, head = tl.program_id(1) // sight.heads, tl.program_id(1) % sight.heads
    group = head // (sight.heads // sight.groups)
    group_of_all = row * sight.groups + group
    tiles_A = first_tile + tl.arange(0, BESIDE)
    there_A = tiles_A < query_tiles
    lines_A = tl.program_id(1).to(tl.int64) * query_tiles + tiles_A
    queries = first_tile * CUT.queries + tl.arange(0, BESIDE * CUT.queries)
    q_QK = load_rows(head_of(q, row, head), queries, q.token, tokens, CUT)
    if COARSE:
        q_QK, step_A, norm_A, error_A, coarse_A = _rounded(q_QK, BESIDE)
        tl.store(of_queries + lines_A * 3, step_A, mask=there_A)
        # Sums of K products in float32 are within K 2⁻²² ‖q‖ ‖k‖ of what they should be.
        tl.store(of_queries + lines_A * 3 + 1, error_A + norm_A * (CUT.block * 2.0**-22), mask=there_A)
        tl.store(of_queries + lines_A * 3 + 2, coarse_A, mask=there_A)
    _, inner, _, _ = keys_in_sight(sight, row, first_tile, PACKED, CUT)
    _, _, outer, _ = keys_in_sight(sight, row, last_tile, PACKED, CUT)
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
        apart = tl.reshape(products, [BESIDE, CUT.queries, TILES, CUT.keys]).trans(0, 2, 1, 3)
        best_AJ = tl.max(tl.reshape(apart, [BESIDE, TILES, CUT.queries * CUT.keys]), axis=2)
        best_AJ = best_AJ.to(tl.float32) if COARSE else from_zero(best_AJ)
        place = lines_A[:, None] * key_tiles + tiles[None, :]
        tl.store(largest + place, best_AJ, mask=there_A[:, None] & (tiles < outer)[None, :])


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
    `slack` (`fused.rounding_of_scores`) scores are computed in 16 bits instead: no tile is kept for nothing
    unless bias is above 0, and products take twice as long.
    """
    q = edges.q_BTHK
    size = (edges.heads, edges.query_tiles, edges.key_tiles)
    flags = torch.empty(size, dtype=torch.int8, device=q.device)
    largest = torch.empty(size, device=q.device)
    coarse = slack is None
    codes, steps, norms, errors = _parts(coarse_keys(edges)) if coarse else (None,) * 4
    of_queries = torch.empty((*size[:2], 3), device=q.device) if coarse else None
    cut, packed = edges.tiles.cut(q.shape[-1]), edges.first_BT is not None
    _largest_kernel[-(-edges.query_tiles // _BESIDE), edges.heads](
        Laid.of(q),
        Laid.of(edges.k_BTGK),
        edges.sight,
        codes,
        of_queries,
        largest,
        COARSE=coarse,
        BESIDE=_BESIDE,
        TILES=max(1, _KEYS // edges.tiles.keys),
        PACKED=packed,
        CUT=cut,
        num_warps=4 * _BESIDE,
        num_stages=3,
    )
    _flag_kernel[edges.query_tiles, edges.heads](
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
