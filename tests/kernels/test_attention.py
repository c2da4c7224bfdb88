"""Attention: the reference against plain loops anywhere, the packed body against the reference on GPUs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.evaluation.adaptation.repeatable import repeatable_gradients
from bytegolf.kernels.attention import attend, segments_from_starts
from bytegolf.kernels.attention.fused import fused_attention
from bytegolf.kernels.attention.reference import attention as reference
from bytegolf.kernels.attention.varlen import varlen_attention, with_repeatable_gradients
from bytegolf.kernels.attention.visibility import allowed_keys
from bytegolf.model.stream import Stream


def by_loops(q: Tensor, k: Tensor, v: Tensor, documents: Tensor, window: int | None) -> Tensor:
    rows, length, heads, width = q.shape
    y = torch.zeros_like(q)
    for b in range(rows):
        for t in range(length):
            seen = [
                s
                for s in range(t + 1)
                if documents[b, s] == documents[b, t] and (window is None or s >= t - window)
            ]
            for h in range(heads):
                g = h // (heads // k.shape[2])
                weights = torch.softmax(k[b, seen, g] @ q[b, t, h] / math.sqrt(width), 0)
                y[b, t, h] = weights @ v[b, seen, g]
    return y


def tensors(
    shape: tuple[int, int, int, int, int], seed: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    rows, length, heads, groups, width = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(rows, length, n, width, generator=generator, dtype=torch.float64)
        for n in (heads, groups, groups)
    )
    return tuple(x.to(device, dtype).requires_grad_() for x in (2 * q, k, v))  # type: ignore[return-value]


def run(body: object, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, window: int | None) -> Tensor:
    stream = Stream.of(starts)
    assert callable(body)
    allowed = allowed_keys(
        stream.document_BT, stream.key_document_BS, stream.positions_T, stream.key_positions_S, window
    )
    return body(q, k, v, allowed)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 3),
    length=st.integers(1, 9),
    groups=st.integers(1, 3),
    share=st.integers(1, 3),
    width=st.sampled_from([1, 2, 5]),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_the_reference_is_attention_in_plain_loops(
    rows: int, length: int, groups: int, share: int, width: int, window: int | None, seed: int
) -> None:
    q, k, v = tensors((rows, length, groups * share, groups, width), seed, torch.float64)
    starts = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.3
    y = run(reference, q, k, v, starts, window)
    expected = by_loops(q, k, v, starts.long().cumsum(1), window)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    toward = torch.randn_like(y)
    ours = torch.autograd.grad(y, (q, k, v), toward)
    theirs = torch.autograd.grad(expected, (q, k, v), toward)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(run(fused_attention, q, k, v, starts, window), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_the_fused_body_may_not_see_changes_no_bit(dtype: torch.dtype) -> None:
    q, k, v = tensors((3, 70, 6, 2, 10), 4, dtype)
    starts = torch.zeros(3, 70, dtype=torch.bool)
    starts[:, 41] = True
    y = run(fused_attention, q, k, v, starts, 20)
    for place in (1, 40, 41, 63, 69):
        later = [x.detach().clone() for x in (q, k, v)]
        for x in later:
            x[:, place] = 3 * torch.randn_like(x[:, place])
        z = run(fused_attention, *later, starts, 20)
        assert torch.equal(z[:, :place], y[:, :place])
        assert not torch.equal(z[:, place], y[:, place])
        beyond = 41 if place < 41 else 70
        assert torch.equal(z[:, beyond:], y[:, beyond:])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06)])
def test_lower_precisions_stay_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    starts = torch.zeros(2, 33, dtype=torch.bool)
    starts[:, 20] = True
    exact = tensors((2, 33, 6, 2, 10), 1, torch.float64)
    rough = tensors((2, 33, 6, 2, 10), 1, dtype)
    y, z = run(reference, *exact, starts, 12), run(reference, *rough, starts, 12)
    assert z.dtype == dtype
    assert float((y - z).detach().norm() / y.detach().norm()) < tolerance
    y.square().sum().backward()
    z.square().sum().backward()
    for a, b in zip(exact, rough, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm() / a.grad.norm()) < 2 * tolerance


def test_scores_too_large_for_an_exponential_stay_finite() -> None:
    q, k, v = (1e4 * x.detach() for x in tensors((1, 7, 2, 1, 4), 2, torch.float32))
    y = run(reference, q, k, v, torch.zeros(1, 7, dtype=torch.bool), 2)
    assert y.isfinite().all()
    assert torch.equal(y[:, 0], v[:, 0].expand(1, 2, 4))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), length=st.integers(1, 12), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_segments_are_the_documents_of_the_rows_laid_end_to_end(
    rows: int, length: int, share: float, seed: int
) -> None:
    starts = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < share
    before = starts.clone()
    segments = segments_from_starts(starts)
    assert torch.equal(starts, before)
    offsets = segments.offsets.tolist()
    expected = [i for i in range(rows * length) if i % length == 0 or starts.flatten()[i]]
    assert offsets[: len(expected)] == expected
    assert len(offsets) > len(expected)
    assert set(offsets[len(expected) :]) == {rows * length}
    # Few different sizes: the number of segments is the number of rows times a power of two.
    doublings = math.log2((len(offsets) - 1) / rows)
    assert doublings == int(doublings)
    assert segments.longest == length
    assert segments.offsets.dtype == torch.int32


def test_without_segments_or_in_wide_types_the_reference_runs() -> None:
    q, k, v = tensors((2, 6, 2, 1, 4), 3, torch.float32)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    stream = Stream.of(starts)
    for segments in (None, segments_from_starts(starts)):
        y = attend(
            q,
            k,
            v,
            document_BT=stream.document_BT,
            key_document_BS=stream.key_document_BS,
            positions_T=stream.positions_T,
            key_positions_S=stream.key_positions_S,
            window=None,
            segments=segments,
        )
        assert torch.equal(y, run(reference, q, k, v, starts, None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("window", [None, 1, 16, 127])
@pytest.mark.parametrize("length", [1, 63, 256])
def test_the_packed_body_equals_the_reference(
    heads: tuple[int, int], window: int | None, length: int
) -> None:
    from bytegolf.kernels.attention.varlen import varlen_attention

    shape = (3, length, *heads, 64)
    starts = torch.rand(3, length, generator=torch.Generator().manual_seed(length)) < 0.04
    starts = starts.cuda()
    packed, plain = tensors(shape, 4, torch.bfloat16, "cuda"), tensors(shape, 4, torch.bfloat16, "cuda")
    exact = [x.detach().double().requires_grad_() for x in plain]
    y = varlen_attention(*packed, segments=segments_from_starts(starts), window=window)
    expected = run(reference, *exact, starts, window)
    assert y.dtype == torch.bfloat16
    assert float((y - expected).detach().norm() / expected.detach().norm()) < 0.01
    toward = torch.randn_like(y)
    ours = torch.autograd.grad(y, packed, toward)
    theirs = torch.autograd.grad(expected, exact, toward.double())
    for a, b in zip(ours, theirs, strict=True):
        # One token alone has no gradient to its query and key.
        assert float((a - b).norm()) < 0.02 * float(b.norm()) + 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_packed_body_lets_no_bit_cross_a_document() -> None:
    from bytegolf.kernels.attention.varlen import varlen_attention

    q, k, v = (x.detach() for x in tensors((2, 128, 4, 2, 64), 5, torch.bfloat16, "cuda"))
    starts = torch.zeros(2, 128, dtype=torch.bool, device="cuda")
    starts[0, 50] = starts[1, 70] = True
    segments = segments_from_starts(starts)
    before = varlen_attention(q, k, v, segments=segments, window=None)
    k[0, 10:50] += 1.0
    v[0, 10:50] -= 1.0
    after = varlen_attention(q, k, v, segments=segments, window=None)
    assert torch.equal(after[0, :10], before[0, :10])
    assert torch.equal(after[0, 50:], before[0, 50:])
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0, 10:50], before[0, 10:50])


def test_repeatable_gradients_are_the_gradients() -> None:
    q, k, v = tensors((1, 6, 2, 2, 4), 5, torch.float64)
    weights = torch.randn(6, 2, 4, dtype=torch.float64)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * k).sum(-1, keepdim=True) * v

    def gradients(wrapped: bool, kept: Tensor) -> tuple[Tensor, ...]:
        inputs = [x[0].clone().requires_grad_() for x in (q, k, v)]
        inputs[1] = inputs[1].detach() if kept is k else inputs[1]
        y = with_repeatable_gradients(function, *inputs) if wrapped else function(*inputs)
        return y.detach(), *torch.autograd.grad((y * weights).sum(), [x for x in inputs if x.requires_grad])

    for kept in (q, k):
        assert all(map(torch.equal, gradients(True, kept), gradients(False, kept)))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_packed_gradients_repeat_where_torch_is_asked_for_it() -> None:
    q, k, v = tensors((16, 512, 8, 4, 64), 3, torch.bfloat16, "cuda")
    starts = torch.rand(16, 512) < 1 / 100
    segments = segments_from_starts(starts, torch.device("cuda"))
    weights = torch.randn_like(q)

    def gradients() -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        y = varlen_attention(*inputs, segments=segments, window=None)
        return torch.autograd.grad(y, inputs, weights)

    plain = gradients()
    with repeatable_gradients(torch.device("cuda")):
        first = gradients()
        for _ in range(8):
            assert all(map(torch.equal, gradients(), first))
    for one, other in zip(plain, first, strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    assert not torch.are_deterministic_algorithms_enabled()
