"""What friction leaves of the edges: how many, how far they reach, and which tiles have none.

Three measures, none of which stands for another: the share of edges that are cut, the edges of a query, and
the share of tiles without an edge, which is what a kernel can skip.

Shapes: B rows, T tokens, H query heads, G key/value heads (G divides H), K head width; of a part of a row, P
queries and S keys; N classes of distances.
"""

import math
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest
from operator import add

import torch
from torch import Tensor

from bytegolf.kernels.attention.visibility import allowed_keys
from bytegolf.kernels.friction import reference
from bytegolf.kernels.friction.gate import Rule

#: Queries × keys of the tiles that are looked at.
TILES = ((64, 64), (128, 64), (128, 128))
#: Scores in memory at a time, where this leaves a tile's queries whole.
_SCORES = 2**24


@dataclass(frozen=True)
class TileCounts:
    """Tiles of `queries` × `keys` in which an edge is visible, and of each head those where none is live."""

    queries: int
    keys: int
    visible: int
    empty_H: tuple[int, ...]

    def __add__(self, other: "TileCounts") -> "TileCounts":
        assert (self.queries, self.keys) == (other.queries, other.keys)
        empty_H = _sums(self.empty_H, other.empty_H)
        return TileCounts(self.queries, self.keys, self.visible + other.visible, empty_H)

    @property
    def skip_H(self) -> tuple[float, ...]:
        """The share of tiles that a kernel can skip."""
        return tuple(empty / self.visible for empty in self.empty_H)


@dataclass(frozen=True)
class EdgeCounts:
    """The edges of some rows. Counts of several rows, passes or layers add up.

    pairs: all pairs of a row's tokens, T². visible: those that attention may use, which are causal, of one
    document and in the window. live_HN: edges with x > 0, by distance; see `distance_bounds`. weight_H: what
    the weights of all queries add up to, before the capacity. largest_H: the most that one query's do.
    capped_H: queries whose weights exceed the capacity.
    """

    queries: int
    pairs: int
    visible: int
    live_HN: tuple[tuple[int, ...], ...]
    capped_H: tuple[int, ...]
    weight_H: tuple[float, ...]
    largest_H: tuple[float, ...]
    tiles: tuple[TileCounts, ...]

    def __add__(self, other: "EdgeCounts") -> "EdgeCounts":
        return EdgeCounts(
            self.queries + other.queries,
            self.pairs + other.pairs,
            self.visible + other.visible,
            tuple(map(_sums, self.live_HN, other.live_HN)),
            _sums(self.capped_H, other.capped_H),
            tuple(map(add, self.weight_H, other.weight_H)),
            tuple(map(max, self.largest_H, other.largest_H)),
            tuple(map(add, self.tiles, other.tiles)),
        )

    def over_heads(self) -> "EdgeCounts":
        """All heads counted as one, so that layers with unlike heads add up too."""
        heads = len(self.live_HN)
        return EdgeCounts(
            heads * self.queries,
            heads * self.pairs,
            heads * self.visible,
            (reduce(_sums, self.live_HN),),
            (sum(self.capped_H),),
            (sum(self.weight_H),),
            (max(self.largest_H),),
            tuple(
                TileCounts(tile.queries, tile.keys, heads * tile.visible, (sum(tile.empty_H),))
                for tile in self.tiles
            ),
        )

    @property
    def live_H(self) -> tuple[int, ...]:
        return tuple(map(sum, self.live_HN))

    @property
    def edge_sparsity_H(self) -> tuple[float, ...]:
        """The share of visible edges that are cut."""
        return tuple(1.0 - live / self.visible for live in self.live_H)

    @property
    def square_sparsity_H(self) -> tuple[float, ...]:
        """The share of all T² pairs that are no live edge, those that nobody may see among them."""
        return tuple(1.0 - live / self.pairs for live in self.live_H)

    @property
    def edges_per_query_H(self) -> tuple[float, ...]:
        return tuple(live / self.queries for live in self.live_H)

    @property
    def row_sum_H(self) -> tuple[float, ...]:
        """What a query's weights add up to, before the capacity; the mean."""
        return tuple(weight / self.queries for weight in self.weight_H)

    @property
    def capped_share_H(self) -> tuple[float, ...]:
        """The share of queries that the capacity scales down."""
        return tuple(capped / self.queries for capped in self.capped_H)


def distance_bounds(tokens: int) -> tuple[int, ...]:
    """The largest distance of each class of distances in a row of T tokens: 0, 1, 2, 4, 8, … ≥ T − 1."""
    return (0, *(2**n for n in range(max(tokens - 2, 0).bit_length() + 1)))[: max(tokens, 1)]


@torch.no_grad()
def count_edges(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    *,
    rule: Rule,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    document_BT: Tensor,
    window: int | None,
    tiles: tuple[tuple[int, int], ...] = TILES,
    scores: int = _SCORES,
) -> EdgeCounts:
    """Counts the edges of whole rows, of which nothing stands in a memory.

    The arguments are those of `bytegolf.kernels.friction.friction_attend`, of which the margins x are the
    plain form's, in float32 at least; an edge whose x is within rounding of 0 may live in one body and not in
    another. `tiles`: queries × keys. About `scores` margins are in memory at a time, or those of the queries
    of one tile.
    """
    rows, tokens, heads, _ = q_BTHK.shape
    assert k_BTGK.shape[1] == tokens, "edges of whole rows are counted, not those to a memory"
    # Parts begin where tiles do, so that no tile is counted in two of them.
    aligned = math.lcm(*(queries for queries, _ in tiles))
    step = max(1, scores // (heads * tokens) // aligned) * aligned
    rows_step = max(1, scores // (heads * tokens * min(step, tokens)))
    parts = [
        _count_part(
            q_BTHK[row : row + rows_step, first : first + step],
            k_BTGK[row : row + rows_step],
            first,
            rule,
            bias_H,
            friction_H,
            document_BT[row : row + rows_step],
            window,
            tiles,
        )
        for row in range(0, rows, rows_step)
        for first in range(0, tokens, step)
    ]
    return reduce(add, parts)


def _count_part(
    q_BPHK: Tensor,
    k_BTGK: Tensor,
    first: int,
    rule: Rule,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    document_BT: Tensor,
    window: int | None,
    tiles: tuple[tuple[int, int], ...],
) -> EdgeCounts:
    """The edges of the queries from place `first` on; keys that none of them sees are left out."""
    rows, queries = q_BPHK.shape[:2]
    aligned = math.lcm(*(keys for _, keys in tiles))
    first_key = 0 if window is None else max(0, first - window) // aligned * aligned
    places_T = torch.arange(document_BT.shape[1], device=q_BPHK.device)
    of_queries, of_keys = slice(first, first + queries), slice(first_key, first + queries)
    distance_PS = places_T[of_queries, None] - places_T[of_keys]
    allowed_BPS = allowed_keys(
        document_BT[:, of_queries], document_BT[:, of_keys], places_T[of_queries], places_T[of_keys], window
    )
    x_BHPS = reference.margins(q_BPHK, k_BTGK[:, of_keys], distance_PS, allowed_BPS, bias_H, friction_H)
    live_BHPS = x_BHPS > 0
    taken_HX = rule.weights(x_BHPS).sum(dim=-1).transpose(0, 1).flatten(1)
    capped_HX = taken_HX > (math.inf if rule.capacity is None else rule.capacity)
    return EdgeCounts(
        queries=rows * queries,
        pairs=rows * queries * document_BT.shape[1],
        visible=int(allowed_BPS.sum()),
        live_HN=_by_distance(live_BHPS, distance_PS, distance_bounds(document_BT.shape[1])),
        capped_H=tuple(capped_HX.sum(dim=1).tolist()),
        weight_H=tuple(taken_HX.double().sum(dim=1).tolist()),
        largest_H=tuple(taken_HX.amax(dim=1).tolist()),
        tiles=tuple(_count_tiles(allowed_BPS, live_BHPS, *size) for size in tiles),
    )


def _by_distance(
    live_BHPS: Tensor, distance_PS: Tensor, bounds: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Live edges by head and class of distances."""
    heads, classes = live_BHPS.shape[1], len(bounds)
    class_PS = torch.bucketize(distance_PS, torch.tensor(bounds, device=distance_PS.device))
    # Few edges are live, so that it is quicker to look at each than at every class.
    _, head_X, query_X, key_X = live_BHPS.nonzero(as_tuple=True)
    place_X = classes * head_X + class_PS[query_X, key_X]
    live_HN = torch.bincount(place_X, minlength=heads * classes).view(heads, classes)
    return tuple(map(tuple, live_HN.tolist()))


def _count_tiles(allowed_BPS: Tensor, live_BHPS: Tensor, queries: int, keys: int) -> TileCounts:
    visible_BXY, live_BHXY = (_any_in_tiles(edges, queries, keys) for edges in (allowed_BPS, live_BHPS))
    empty_BHXY = visible_BXY[:, None] & ~live_BHXY
    return TileCounts(queries, keys, int(visible_BXY.sum()), tuple(empty_BHXY.sum(dim=(0, 2, 3)).tolist()))


def _any_in_tiles(edges: Tensor, queries: int, keys: int) -> Tensor:
    """Whether each tile has such an edge: (..., P, S) -> (..., P / queries, S / keys), both rounded up."""
    rest = (0, -edges.shape[-1] % keys, 0, -edges.shape[-2] % queries)
    whole = torch.nn.functional.pad(edges, rest)
    return whole.unflatten(-1, (-1, keys)).unflatten(-3, (-1, queries)).any(dim=-1).any(dim=-2)


def _sums(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Sums place by place; a shorter one goes on with zeros."""
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))
