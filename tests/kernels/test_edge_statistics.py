"""Edges of friction attention counted by hand, in parts, and against what attention itself reads."""

from dataclasses import astuple, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.kernels.friction import friction_attend
from bytegolf.kernels.friction.gate import Rule
from bytegolf.kernels.friction.statistics import EdgeCounts, TileCounts, count_edges, distance_bounds

#: With exponent 1 an edge weighs x / (1 + x).
RULE = Rule("mu", 1.0, capacity=1.0)
SMALL = ((2, 3), (4, 3), (4, 6))


def counted(q: Tensor, k: Tensor, document: Tensor | None = None, **changes: Any) -> EdgeCounts:
    rows, tokens = q.shape[:2]
    document = torch.zeros(rows, tokens, dtype=torch.int64) if document is None else document
    plain: dict[str, Any] = {"rule": RULE, "bias_H": None, "friction_H": None, "window": None}
    return count_edges(q, k, document_BT=document, **(plain | changes))


def by_hand() -> tuple[Tensor, Tensor]:
    """Queries of 1 and four keys that both heads read: a score is the key."""
    k = torch.tensor([0.5, -1.0, 0.8, 2.0], dtype=torch.float64).view(1, 4, 1, 1)
    return torch.ones(1, 4, 2, 1, dtype=torch.float64), k


def test_four_tokens_counted_by_hand() -> None:
    # The second head has no friction: there every positive score is an edge.
    counts = counted(
        *by_hand(), friction_H=torch.tensor([1.0, 0.0]), tiles=((1, 1), (2, 2), (4, 2), (64, 64))
    )
    assert (counts.queries, counts.pairs, counts.visible) == (4, 16, 10)
    assert distance_bounds(4) == (0, 1, 2, 4)
    # 0.5 does not reach over ln 2, nor 0.8 over ln 2 to anyone who would see it.
    assert counts.live_HN == ((3, 2, 0, 0), (3, 2, 1, 1))
    assert counts.live_H == (5, 7)
    assert counts.edge_sparsity_H == pytest.approx((0.5, 0.3))
    assert counts.square_sparsity_H == pytest.approx((11 / 16, 9 / 16))
    assert counts.edges_per_query_H == (1.25, 1.75)
    sums = ((1 / 3, 1 / 3, 4 / 9, 4 / 9 + 2 / 3), (1 / 3, 1 / 3, 1 / 3 + 4 / 9, 1 / 3 + 4 / 9 + 2 / 3))
    assert counts.row_sum_H == pytest.approx([sum(head) / 4 for head in sums])
    assert counts.largest_H == pytest.approx([max(head) for head in sums])
    assert counts.capped_H == (1, 1)
    assert counts.tiles == (
        TileCounts(1, 1, 10, (5, 3)),
        TileCounts(2, 2, 3, (1, 0)),
        TileCounts(4, 2, 2, (0, 0)),
        TileCounts(64, 64, 1, (0, 0)),
    )
    assert counts.tiles[1].skip_H == pytest.approx((1 / 3, 0.0))


def test_what_nobody_may_see_is_no_edge() -> None:
    q, k = by_hand()
    apart = counted(q, k, torch.tensor([[0, 0, 1, 1]]), friction_H=torch.zeros(2), tiles=((2, 2),))
    assert (apart.pairs, apart.visible, apart.live_H) == (16, 6, (5, 5))
    # Between the documents nothing is visible: that tile is none to skip.
    assert apart.tiles == (TileCounts(2, 2, 2, (0, 0)),)
    near = counted(q, k, friction_H=torch.zeros(2), window=1)
    assert (near.pairs, near.visible, near.live_H) == (16, 7, (5, 5))


def test_a_query_without_capacity_is_never_capped() -> None:
    assert counted(*by_hand(), rule=replace(RULE, capacity=None)).capped_H == (0, 0)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 6, 33, 34, 1024])
def test_classes_of_distances_double_and_hold_every_distance(tokens: int) -> None:
    bounds = distance_bounds(tokens)
    assert bounds[-1] >= tokens - 1
    assert all(later == 2 * bound for bound, later in pairwise(bounds[1:]))
    assert len(bounds) == 1 or bounds[-2] < tokens - 1


def problem(seed: int, rows: int, tokens: int, *, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of two heads for each group, keys, and documents that begin anywhere."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(rows, tokens, heads, 3, generator=generator, dtype=torch.float64)
        for heads in (2 * groups, groups)
    )
    starts = torch.rand(rows, tokens, generator=generator) < 0.1
    return 1.5 * q, k, starts.long().cumsum(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 3),
    tokens=st.integers(1, 40),
    window=st.none() | st.integers(1, 45),
    scores=st.integers(1, 4_000),
)
def test_parts_add_up_to_the_whole(
    seed: int, rows: int, tokens: int, window: int | None, scores: int
) -> None:
    q, k, document = problem(seed, rows, tokens)
    heads = {"bias_H": torch.tensor([0.5, 0.0, -0.5, 1.0]), "friction_H": torch.tensor([1.0, 0.5, 0.0, 1.5])}
    whole = counted(q, k, document, window=window, tiles=SMALL, **heads)
    parts = counted(q, k, document, window=window, tiles=SMALL, scores=scores, **heads)
    single = [
        counted(q[[b]], k[[b]], document[[b]], window=window, tiles=SMALL, **heads) for b in range(rows)
    ]
    for other in (parts, sum(single[1:], start=single[0])):
        assert replace(other, weight_H=whole.weight_H, largest_H=whole.largest_H) == whole
        assert other.weight_H == pytest.approx(whole.weight_H)
        assert other.largest_H == pytest.approx(whole.largest_H)
    assert all(0 <= live <= whole.visible <= whole.pairs for live in whole.live_H)
    for small, large in pairwise(whole.tiles):
        # Shares may go either way, since tiles at borders are visible in part; numbers may not.
        assert large.visible <= small.visible
        for empty, fewer in zip(small.empty_H, large.empty_H, strict=True):
            assert fewer <= empty
            assert large.visible - fewer <= small.visible - empty


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), window=st.none() | st.integers(1, 9))
def test_the_edges_are_those_that_attention_reads(seed: int, window: int | None) -> None:
    q, k, document = problem(seed, 2, 12, groups=1)
    rule, places = replace(RULE, capacity=None), torch.arange(12)
    # What is read of the unit vectors is every edge's own weight.
    unit = torch.eye(12, dtype=torch.float64).view(1, 12, 1, 12).expand(2, -1, -1, -1)
    weights = friction_attend(
        q,
        k,
        unit,
        rule=rule,
        bias_H=None,
        friction_H=None,
        document_BT=document,
        key_document_BS=document,
        positions_T=places,
        key_positions_S=places,
        window=window,
        segments=None,
    )
    found = counted(q, k, document, rule=rule, window=window, tiles=((1, 1), (5, 4)))
    live = weights > 0
    assert found.live_H == tuple(live.sum(dim=(0, 1, 3)).tolist())
    assert found.weight_H == pytest.approx(weights.sum(dim=(0, 1, 3)).tolist())
    assert found.largest_H == pytest.approx(weights.sum(dim=3).amax(dim=(0, 1)).tolist())
    distance = (places[:, None] - places)[None, :, None]
    bounds = (-1, *distance_bounds(12))
    for n, (low, high) in enumerate(pairwise(bounds)):
        inside = live & (low < distance) & (distance <= high)
        assert tuple(head[n] for head in found.live_HN) == tuple(inside.sum(dim=(0, 1, 3)).tolist())
    assert found.tiles[0].visible == found.visible
    for tile in found.tiles:
        kept = sum(
            (live[:, i : i + tile.queries, :, j : j + tile.keys].flatten(3).any(dim=3).any(dim=1)).sum(dim=0)
            for i in range(0, 12, tile.queries)
            for j in range(0, 12, tile.keys)
        )
        assert isinstance(kept, Tensor)
        assert tuple(tile.visible - empty for empty in tile.empty_H) == tuple(kept.tolist())


def test_all_heads_count_as_one() -> None:
    q, k, document = problem(1, 2, 20)
    counts = counted(q, k, document, tiles=SMALL)
    one = counts.over_heads()
    assert one.edge_sparsity_H == pytest.approx([sum(counts.edge_sparsity_H) / 4])
    assert one.edges_per_query_H == pytest.approx([sum(counts.edges_per_query_H) / 4])
    assert one.largest_H == (max(counts.largest_H),)
    assert one.tiles[0].skip_H == pytest.approx([sum(counts.tiles[0].skip_H) / 4])


def test_rows_of_unlike_lengths_add_up() -> None:
    (q, k, document), (r, m, other) = problem(2, 1, 9), problem(3, 1, 30)
    short, long = counted(q, k, document), counted(r, m, other)
    both = short + long
    assert both.live_H == tuple(a + b for a, b in zip(short.live_H, long.live_H, strict=True))
    assert both.live_HN == (long + short).live_HN


def test_numbers_of_16_bits_are_judged_in_float32() -> None:
    q, k, document = problem(4, 2, 30)
    q, k = q.bfloat16(), k.bfloat16()
    assert astuple(counted(q, k, document)) == astuple(counted(q.float(), k.float(), document))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_counts_the_same_edges() -> None:
    q, k, document = problem(5, 2, 300)
    here = counted(q, k, document, window=200)
    there = counted(q.cuda(), k.cuda(), document.cuda(), window=200, scores=50_000)
    assert replace(there, weight_H=here.weight_H, largest_H=here.largest_H) == here
