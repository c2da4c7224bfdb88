"""Window plans: every target in exactly one window, with as much context as the plan promises."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.evaluation.windows import (
    Chunked,
    DocumentBlocks,
    DocumentChunks,
    PerDocument,
    Plan,
    Sliding,
    WindowPlan,
)


def with_stride(kind: type[Sliding] | type[PerDocument]) -> st.SearchStrategy[WindowPlan]:
    return st.integers(1, 40).flatmap(lambda length: st.builds(kind, st.just(length), st.integers(1, length)))


in_chunks = st.integers(1, 40).flatmap(
    lambda length: (
        st.builds(DocumentChunks, st.just(length), st.integers(1, length))
        | st.builds(
            DocumentBlocks, st.just(length), st.integers(1, length), st.none() | st.integers(1, length)
        )
    )
)
plans = st.builds(Chunked, st.integers(1, 40)) | with_stride(Sliding) | with_stride(PerDocument) | in_chunks
document_starts = st.lists(st.integers(0, 130), max_size=8).map(lambda xs: np.array(sorted({0, *xs})))


@settings(max_examples=300, deadline=None)
@given(plan=plans, starts=document_starts, targets=st.integers(0, 120))
def test_every_target_is_scored_once_and_in_order(plan: Plan, starts: np.ndarray, targets: int) -> None:
    scored = []
    for window in plan.windows(starts, targets):
        assert 0 <= window.start <= window.scored < window.stop <= targets
        assert window.stop - window.start <= plan.length
        scored += range(window.scored, window.stop)
    assert scored == list(range(targets))


@pytest.mark.parametrize("rest", [0, 1, -1])
@pytest.mark.parametrize("stride", [16, 64])
@pytest.mark.parametrize("kind", [Sliding, PerDocument, DocumentChunks, DocumentBlocks])
def test_ends_of_texts_are_neither_dropped_nor_repeated(kind: Any, stride: int, rest: int) -> None:
    plan = kind(1024, stride)
    for targets in (2 * stride + rest, 1024 + rest, 1024, 3 * 1024 + 5 * stride + rest):
        for starts in ([0], [0, stride], [0, 1, targets - 1], [0, stride + 1, 1024]):
            windows = list(plan.windows(np.array([s for s in starts if s < targets]), targets))
            assert [i for w in windows for i in range(w.scored, w.stop)] == list(range(targets))
            assert all(w.stop - w.start <= 1024 for w in windows)


@settings(max_examples=100, deadline=None)
@given(plan=with_stride(Sliding), targets=st.integers(0, 200))
def test_sliding_gives_every_target_but_the_first_ones_its_context(plan: Sliding, targets: int) -> None:
    for window in plan.windows(np.array([0]), targets):
        if window.start == 0:
            continue
        assert window.scored - window.start == plan.length - plan.stride
        assert window.stop == min(window.start + plan.length, targets)


@settings(max_examples=200, deadline=None)
@given(plan=plans, starts=document_starts, targets=st.integers(0, 120), more=st.integers(0, 60))
def test_a_longer_text_changes_no_context(plan: Plan, starts: np.ndarray, targets: int, more: int) -> None:
    starts = starts[starts <= targets]
    context = {
        target: window.start
        for window in plan.windows(starts, targets)
        for target in range(window.scored, window.stop)
    }
    for window in plan.windows(starts, targets + more):
        for target in range(window.scored, min(window.stop, targets)):
            assert context[target] == window.start


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 40), targets=st.integers(0, 200))
def test_chunked_is_sliding_by_its_length(length: int, targets: int) -> None:
    chunked = list(Chunked(length).windows(np.array([0]), targets))
    sliding = list(Sliding(length, length).windows(np.array([0]), targets))
    assert chunked == sliding
    assert all(w.scored % length == 0 for w in chunked)


@settings(max_examples=100, deadline=None)
@given(plan=with_stride(PerDocument), starts=document_starts, targets=st.integers(0, 120))
def test_no_window_of_a_document_reaches_into_another(
    plan: PerDocument, starts: np.ndarray, targets: int
) -> None:
    for window in plan.windows(starts, targets):
        inside = starts[(starts > window.start) & (starts < window.stop)]
        assert not len(inside)
    alone = [
        (window.start + first, window.stop + first, window.scored + first)
        for first, last in zip(starts, [*starts[1:], targets], strict=True)
        if first < targets
        for window in Sliding(plan.length, plan.stride).windows(
            np.array([0]), int(min(last, targets) - first)
        )
    ]
    assert [(w.start, w.stop, w.scored) for w in plan.windows(starts, targets)] == alone


def test_a_plan_by_hand() -> None:
    windows = [(w.start, w.stop, w.scored) for w in Sliding(6, 2).windows(np.array([0]), 11)]
    assert windows == [(0, 6, 0), (2, 8, 6), (4, 10, 8), (6, 11, 10)]


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (Chunked(8), "chunked 8"),
        (Sliding(8, 2), "sliding 2 of 8"),
        (PerDocument(8, 2), "per document, sliding 2 of 8"),
        (DocumentChunks(8, 2), "per document, chunks of 2 in 8"),
    ],
)
def test_plans_name_themselves(plan: Plan, name: str) -> None:
    assert plan.name == name


@pytest.mark.parametrize("kind", [Sliding, PerDocument])
def test_a_stride_that_would_skip_tokens_is_refused(kind: type[Sliding] | type[PerDocument]) -> None:
    with pytest.raises(RecipeError, match="stride=9 is longer than length=8"):
        kind(8, 9)
    with pytest.raises(RecipeError, match="stride=0"):
        kind(8, 0)
    with pytest.raises(RecipeError, match="length=0"):
        kind(0, 1)


def test_an_empty_chunk_is_refused() -> None:
    with pytest.raises(RecipeError, match="length=0"):
        Chunked(0)


def test_a_block_begins_half_a_length_after_the_one_before() -> None:
    windows = list(DocumentBlocks(length=16, chunk=4).windows(np.array([0, 30]), 45))
    assert [(w.start, w.scored) for w in windows if w.start >= 30] == [(30, 30), (30, 34), (30, 38), (30, 42)]
    assert [w.start for w in windows if w.start < 30] == [0, 0, 0, 0, 8, 8, 16, 16]


def test_blocks_less_far_apart_leave_longer_contexts() -> None:
    plan = DocumentBlocks(length=16, chunk=4, stride=4)
    assert [w.start for w in plan.windows(np.array([0]), 30)] == [0, 0, 0, 0, 4, 8, 12, 16]
    assert plan.name == "per document, chunks of 4 in blocks of 16, 4 apart"
    far = DocumentBlocks(length=16, chunk=4, stride=16).windows(np.array([0]), 30)
    assert [w.start for w in far] == [0, 0, 0, 0, 13, 13, 13, 26]
