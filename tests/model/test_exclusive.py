"""Exclusive and differential attention against their formulas, written out head by head."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.differential import as_half_heads, for_half_heads, sum_and_difference
from bytegolf.model.exclusive import without_own_value
from bytegolf.model.stream import Stream

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))


def expanded(y_BTHK: torch.Tensor, v_BTGK: torch.Tensor) -> torch.Tensor:
    """Values repeated for every head, and normalized: the form that is published first."""
    v_BTHK = v_BTGK.repeat_interleave(y_BTHK.shape[2] // v_BTGK.shape[2], dim=2)
    unit_BTHK = torch.nn.functional.normalize(v_BTHK, dim=-1)
    return y_BTHK - (y_BTHK * unit_BTHK).sum(-1, keepdim=True) * unit_BTHK


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes, width=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 999)
)
def test_what_is_left_is_orthogonal_to_the_tokens_own_value(
    shape: tuple[int, int, int, int], width: int, scale: float, seed: int
) -> None:
    rows, tokens, groups, shared = shape
    torch.manual_seed(seed)
    y = torch.randn(rows, tokens, groups * shared, width, dtype=torch.float64)
    drawn = torch.randn(rows, tokens, groups, width, dtype=torch.float64)
    # None so short that it has no direction worth removing: a single channel may be as near zero as that.
    v = scale * (drawn + 0.1 * drawn.sign())
    left = without_own_value(y, v)
    torch.testing.assert_close(left, expanded(y, v), rtol=0, atol=1e-9)
    along = (left.unflatten(2, (groups, -1)) * v[:, :, :, None]).sum(-1) / scale
    assert float(along.abs().max()) < 1e-9
    # What was orthogonal stays.
    torch.testing.assert_close(without_own_value(left, v), left, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_value_of_zero_takes_nothing_and_gives_finite_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = torch.randn(1, 2, 4, 6, dtype=dtype, requires_grad=True)
    v = torch.randn(1, 2, 2, 6, dtype=dtype)
    v[:, 0] = 0.0
    v.requires_grad_()
    left = without_own_value(y, v)
    assert left.dtype == dtype
    assert torch.equal(left[:, 0], y[:, 0])
    left.square().sum().backward()
    assert y.grad is not None
    assert v.grad is not None
    assert y.grad.isfinite().all()
    assert v.grad.isfinite().all()


@pytest.mark.parametrize("norm_output", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_token_that_sees_only_itself_reads_nothing(norm_output: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    spec = Attention(heads=6, key_value_heads=2, head_width=8, exclusive=True, norm_output=norm_output)
    layer = spec.build(24, "layer").to(dtype)
    layer.out.weight.normal_()
    starts = torch.rand(4, 30) < 0.4
    starts[:, 0] = True
    y_BTD = layer(torch.randn(4, 30, 24, dtype=dtype), Stream.of(starts))
    size = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.2}[dtype]
    assert float(y_BTD[starts].abs().max()) < size
    assert float(y_BTD[~starts].abs().amax(-1).min()) > 0.5


def layer_of(spec: Attention, width: int) -> AttentionLayer:
    layer = spec.build(width, "layer").double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


def turned(half: torch.Tensor, position: int, base: float) -> torch.Tensor:
    result, pairs = half.clone(), len(half) // 2
    for i in range(pairs):
        angle = position * base ** (-i / pairs)
        a, b = half[i], half[i + pairs]
        result[i] = a * math.cos(angle) + b * math.sin(angle)
        result[i + pairs] = b * math.cos(angle) - a * math.sin(angle)
    return result


def normalized(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 2.0**-23).sqrt()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("norm_output", [False, True])
@torch.no_grad()
def test_differential_attention_is_its_formula(exclusive: bool, norm_output: bool) -> None:
    torch.manual_seed(2)
    spec = Attention(4, 2, 8, differential=0.5, exclusive=exclusive, norm_output=norm_output)
    layer = layer_of(spec, 16)
    x = torch.randn(5, 16, dtype=torch.float64)
    expected = []
    for t in range(5):
        heads = []
        for h in range(4):
            group = slice(h // 2 * 8, h // 2 * 8 + 8)
            q = (layer.query.weight @ x[t])[h * 8 : h * 8 + 8]
            keys, values = (x @ w.weight.mT for w in (layer.keys, layer.values))
            reads = []
            for part in (slice(0, 4), slice(4, 8)):
                turned_q = turned(normalized(q[part]), t, 1e4) * layer.gain_H[h]
                scores = [
                    turned_q @ turned(normalized(keys[s, group][part]), s, 1e4) / 2.0 for s in range(t + 1)
                ]
                reads.append(torch.softmax(torch.stack(scores), 0) @ values[: t + 1, group][:, part])
            both = layer.lambda_1 * reads[1]
            heads.append(torch.cat([reads[0] - both, reads[0] + both]))
        y = normalized(torch.cat(heads)) if norm_output else torch.cat(heads)
        if exclusive:
            own = (x[t] @ layer.values.weight.mT).view(1, 1, 2, 8)
            y = expanded(y.view(1, 1, 4, 8), own).flatten()
        expected.append(layer.out.scale_D * (layer.out.weight @ y))
    found = layer(x[None], Stream.of(torch.tensor([[True] + [False] * 4])))[0]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, half=st.integers(1, 4), factor=st.floats(-2, 2))
def test_halves_meet_again_in_the_head_that_they_are_of(
    shape: tuple[int, int, int, int], half: int, factor: float
) -> None:
    rows, tokens, groups, shared = shape
    x = torch.randn(rows, tokens, groups * shared, 2 * half, dtype=torch.float64)
    first, second = x[..., :half], x[..., half:]
    expected = torch.cat([first - factor * second, first + factor * second], -1)
    halves = as_half_heads(x, groups)
    assert halves.shape == (rows, tokens, 2 * groups * shared, half)
    found = sum_and_difference(halves, torch.tensor([factor], dtype=torch.float64), groups)
    torch.testing.assert_close(found, expected)
    numbers = torch.arange(groups * shared, dtype=torch.float64)
    marked = as_half_heads(numbers[:, None].expand(-1, 2 * half)[None, None], groups)
    assert torch.equal(marked[0, 0, :, 0], for_half_heads(numbers, groups))
