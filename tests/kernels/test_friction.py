"""The plain form of friction attention against sums written out, its gradients and its limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.kernels.friction import friction_attend, reference
from bytegolf.kernels.friction.gate import Form, Rule, plain_weights

FORMS: list[Form] = ["mu", "eta_mu", "log_domain"]


def problem(rows: int, tokens: int, heads: int, groups: int, width: int, seed: int = 0) -> list[Tensor]:
    """Queries (B, T, H, K), keys and values (B, T, G, K); scores vary by about 2."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(rows, tokens, n, width) for n in (heads, groups, groups)]
    q, k, v = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes)
    return [2 * q, k, v]


def packed(document_BT: Tensor) -> dict[str, Tensor]:
    places = torch.arange(document_BT.shape[1])
    return {
        "document_BT": document_BT,
        "key_document_BS": document_BT,
        "positions_T": places,
        "key_positions_S": places,
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capacity", [None, 0.7])
def test_every_edge_is_what_its_formula_says(form: Form, capacity: float | None) -> None:
    q, k, v = problem(2, 9, heads=4, groups=2, width=3)
    document = torch.tensor([[0] * 9, [0] * 4 + [1] * 5])
    bias, weight = torch.tensor([0.3, 0.0, -0.2, 1.0]), torch.tensor([1.0, 0.5, 1.5, 1.0])
    rule = Rule(form, 1.25, capacity)
    y = friction_attend(
        q, k, v, rule=rule, bias_H=bias, friction_H=weight, window=5, segments=None, **packed(document)
    )
    scaled = 0
    for b, i, h in ((b, i, h) for b in range(2) for i in range(9) for h in range(4)):
        total, read = 0.0, torch.zeros(3, dtype=torch.float64)
        for j in range(max(0, i - 5), i + 1):
            if document[b, j] == document[b, i]:
                score = float(q[b, i, h] @ k[b, j, h // 2]) / math.sqrt(3)
                x = score + float(bias[h]) - float(weight[h]) * math.log(max(i - j, 1))
                w = float(plain_weights(torch.tensor(x, dtype=torch.float64), form, 1.25))
                total, read = total + w, read + w * v[b, j, h // 2]
        if capacity is not None and total > capacity:
            read, scaled = read * capacity / total, scaled + 1
        torch.testing.assert_close(y[b, i, h], read, rtol=1e-6, atol=1e-6)
    assert bool(scaled) == (capacity is not None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_gradients_are_those_of_the_formula(form: Form, capacity: float | None) -> None:
    leaves = [x.requires_grad_() for x in problem(1, 7, heads=2, groups=1, width=2, seed=3)]
    heads = [torch.tensor(pair, dtype=torch.float64).requires_grad_() for pair in ([0.2, -0.1], [0.9, 1.2])]
    document = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])

    def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        return friction_attend(
            q,
            k,
            v,
            rule=Rule(form, 1.25, capacity),
            bias_H=bias,
            friction_H=weight,
            window=None,
            segments=None,
            **packed(document),
        )

    distance = torch.arange(7)[:, None] - torch.arange(7)
    x = reference.margins(leaves[0], leaves[1], distance, distance[None] >= 0, *heads)
    assert float(x[x.isfinite()].detach().abs().min()) > 1e-3, "an edge stands where its weight has no slope"
    assert torch.autograd.gradcheck(attended, (*leaves, *heads))


def test_a_query_without_an_edge_reads_exactly_nothing() -> None:
    q, k, v = problem(1, 6, heads=1, groups=1, width=4)
    k = q.clone()
    k[0, :3], k[0, 3:] = 0, k[0, 3]
    q[0, 3:] = -100 * k[0, 3]
    document = torch.zeros(1, 6, dtype=torch.int64)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    y = friction_attend(
        *leaves,
        rule=Rule("eta_mu", capacity=4.0),
        bias_H=None,
        friction_H=None,
        window=None,
        segments=None,
        **packed(document),
    )
    assert torch.equal(y[0, 3:], torch.zeros(3, 1, 4, dtype=torch.float64))
    y.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), capacity=st.floats(0.1, 5.0))
def test_no_query_takes_more_than_its_capacity(seed: int, capacity: float) -> None:
    q, k, _ = problem(1, 12, heads=2, groups=2, width=4, seed=seed)
    # Values of one show what the weights add up to.
    y = friction_attend(
        4 * q,
        k,
        torch.ones_like(k),
        rule=Rule("eta_mu", capacity=capacity),
        bias_H=None,
        friction_H=None,
        window=None,
        segments=None,
        **packed(torch.zeros(1, 12, dtype=torch.int64)),
    )
    assert float(y.max()) <= capacity * (1 + 1e-9)
    assert (y >= 0).all()


def test_friction_in_a_softmax_is_a_power_of_the_distance() -> None:
    q, k, v = problem(2, 8, heads=2, groups=1, width=4)
    weight = torch.tensor([1.0, 0.5], dtype=torch.float64)
    y = friction_attend(
        q,
        k,
        v,
        rule=None,
        bias_H=None,
        friction_H=weight,
        window=None,
        segments=None,
        **packed(torch.zeros(2, 8, dtype=torch.int64)),
    )
    distance = torch.arange(8)[:, None] - torch.arange(8)
    far = distance.clamp(min=1).double() ** -weight[:, None, None]
    masses = (torch.einsum("bihk,bjk->bhij", q, k[:, :, 0]) / 2.0).exp() * far * (distance >= 0)
    expected = torch.einsum("bhij,bjk->bihk", masses / masses.sum(-1, keepdim=True), v[:, :, 0])
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


def test_rows_read_in_parts_are_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.float() for x in problem(5, 6, heads=2, groups=1, width=4))
    arguments = packed(torch.zeros(5, 6, dtype=torch.int64))
    settings_ = {"rule": Rule(), "bias_H": None, "friction_H": None, "window": None, "segments": None}
    with torch.no_grad():
        whole = friction_attend(q, k, v, **settings_, **arguments)
        monkeypatch.setattr("bytegolf.kernels.friction._SCORES", 2 * 2 * 6 * 6)
        assert torch.equal(friction_attend(q, k, v, **settings_, **arguments), whole)


def test_16_bits_are_read_in_full_precision() -> None:
    """Whether an edge is there is no matter of rounding scores to 16 bits."""
    q, k, v = (x.bfloat16() for x in problem(2, 10, heads=2, groups=2, width=8))
    arguments = packed(torch.zeros(2, 10, dtype=torch.int64))
    settings_ = {"rule": Rule(), "bias_H": None, "friction_H": None, "window": None, "segments": None}
    y = friction_attend(q, k, v, **settings_, **arguments)
    exact = friction_attend(q.double(), k.double(), v.double(), **settings_, **arguments)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-6)
