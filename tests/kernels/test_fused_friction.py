"""The kernels of friction attention, where they can run: against the plain form, and sparse against dense.

The plain form is in float64; sparse and dense are the same to the last bit. On a GPU tiles are as large as in
use, elsewhere small, so that there are many of them.
"""

import itertools
from typing import Any

import pytest
import torch
from fused_device import DEVICE, PLAIN, TYPES, error, needs_fused, new_tensors_without_numbers
from torch import Tensor

from bytegolf.kernels.friction import coarse_rows, friction_attend
from bytegolf.kernels.friction.gate import Rule

pytestmark = needs_fused

ON_GPU = DEVICE == "cuda"
#: Tokens, heads, groups, head width: none a multiple of a tile, one tile and less, a width that is no power
#: of two.
SHAPES = [(300, 4, 2, 64), (1025, 2, 2, 64), (7, 2, 1, 64)] if ON_GPU else [(45, 4, 2, 24), (7, 2, 1, 16)]
RULES = [
    Rule("eta_mu", capacity=1.0),
    Rule("mu"),
    Rule("log_domain", capacity=2.0),
    Rule("eta_mu", exponent=4.0),
    None,
]
#: What tensor cores and 16-bit weights leave, and in float32 what the polynomial of the fidelity and its
#: slope do.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 4e-3, torch.float32: 2e-3}


@pytest.fixture
def kernels() -> Any:
    from bytegolf.kernels.friction import backward, decode, forward, fused, launch, lists, prepass

    class Kernels:
        pass

    found = Kernels()
    for module in (backward, decode, forward, fused, launch, lists, prepass):
        for name, value in vars(module).items():
            setattr(found, name, value)
    return found


def tiles(kernels: Any) -> Any:
    return kernels.EdgeTiles() if ON_GPU else kernels.EdgeTiles(queries=16, keys=16)


@pytest.fixture
def tiles_as_here(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not ON_GPU:
        monkeypatch.setattr(kernels.EdgeTiles, "of", staticmethod(lambda rule: tiles(kernels)))


def problem(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, rows: int = 2, spread: float = 2.0, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """q, k, v as leaves; bias and friction of the heads; the documents' numbers."""
    tokens, heads, groups, width = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(rows, tokens, n, width) for n in (heads, groups, groups)]
    q, k, v = (torch.randn(*size, generator=generator) for size in sizes)
    leaves = [x.to(DEVICE, dtype).requires_grad_() for x in (spread * q, k, v)]
    bias = 0.3 * torch.randn(heads, generator=generator)
    friction = 0.5 + torch.rand(heads, generator=generator)
    document = (torch.rand(rows, tokens, generator=generator) < 2.0 / tokens).long().cumsum(dim=1)
    return leaves, bias.to(DEVICE), friction.to(DEVICE), document.to(DEVICE)


def plain(leaves: list[Tensor], bias: Any, friction: Any, document: Tensor, rule: Any, window: Any) -> Tensor:
    places = torch.arange(document.shape[1], device=document.device)
    return friction_attend(
        leaves[0],
        leaves[1],
        leaves[2],
        rule=rule,
        bias_H=bias,
        friction_H=friction,
        document_BT=document,
        key_document_BS=document,
        positions_T=places,
        key_positions_S=places,
        window=window,
        segments=None,
    )


def far_from_kinks(
    leaves: list[Tensor], bias: Tensor, friction: Tensor, rule: Rule | None, document: Tensor, window: Any
) -> Tensor:
    """Queries (B, T, H, 1) whose gradient no rounding turns: whose edges, where they begin with a step, are
    not next to it, and which do not take as much as they may to within what 16 bits round off.
    """
    from bytegolf.kernels.attention.visibility import allowed_keys
    from bytegolf.kernels.friction.reference import margins

    places = torch.arange(document.shape[1], device=document.device)
    allowed = allowed_keys(document, document, places, places, window)
    q, k = (x.detach().double() for x in leaves[:2])
    x = margins(q, k, places[:, None] - places, allowed, bias.double(), friction.double())
    near = torch.zeros_like(x[..., 0], dtype=torch.bool)
    if rule is not None and rule.form == "log_domain":
        near |= (x.abs() < 1e-4).any(dim=-1)
    if rule is not None and rule.capacity is not None:
        near |= (rule.weights(x).sum(dim=-1) / rule.capacity - 1.0).abs() < 2.0**-8
    return ~near.transpose(1, 2)[..., None]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(("shape", "rule"), list(itertools.product(SHAPES, RULES)))
def test_fused_equals_reference(
    kernels: Any,
    shape: tuple[int, int, int, int],
    rule: Rule | None,
    window: int | None,
    dtype: torch.dtype,
    tiles_as_here: None,
) -> None:
    if not ON_GPU and window is not None and (dtype != PLAIN or rule not in RULES[:2]):
        pytest.skip("on a GPU alone: the interpreter is slow")
    leaves, bias, friction, document = problem(shape, dtype)
    if rule is None:
        bias.zero_()
    heads = [bias.requires_grad_(rule is not None), friction.requires_grad_()]
    exact = [x.detach().double().requires_grad_() for x in (*leaves, *heads)]
    theirs = plain(exact[:3], exact[3], exact[4], document, rule, window)
    sure = far_from_kinks(leaves, bias.detach(), friction.detach(), rule, document, window)
    toward = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype) * sure
    ours = kernels.fused_friction_attention(
        *leaves, rule=rule, bias_H=bias, friction_H=friction, document_BT=document, window=window
    )
    assert ours.dtype == dtype
    assert error(ours * sure, theirs * sure) < TOLERANCE[dtype]
    wanted = [*leaves, friction] if rule is None else [*leaves, *heads]
    wanted_exact = [*exact[:3], exact[4]] if rule is None else exact
    found = torch.autograd.grad(ours, wanted, toward)
    expected = torch.autograd.grad(theirs, wanted_exact, toward.double())
    for leaf, a, b in zip(wanted, found, expected, strict=True):
        assert a.dtype == leaf.dtype
        # Bias and friction are sums of terms of both signs.
        assert error(a, b) < (3.0 if leaf.ndim == 1 else 1.0) * TOLERANCE[dtype]


def arms(kernels: Any, edges: Any, toward: Tensor) -> dict[str, list[Tensor]]:
    """Everything that forward and backward give, dense and sparse in each way."""
    slack = kernels.rounding_of_scores(edges)
    found = {}
    y, taken, flags = kernels.forward(edges, kernels.DENSE.value, slack=slack)
    found["dense"] = [y, taken, kernels.backward(edges, toward, y, taken, None, learned=True)]
    y, taken, flags = kernels.forward(edges, kernels.EARLY.value, slack=slack)
    lists = kernels.list_tiles(flags, both_ways=True)
    found["early"] = [y, taken, kernels.backward(edges, toward, y, taken, lists, learned=True)]
    kept = kernels.tiles_with_edges(edges)
    lists = kernels.list_tiles(kept, both_ways=True)
    y, taken, _ = kernels.forward(edges, kernels.LISTED.value, lists)
    found["prepass"] = [y, taken, kernels.backward(edges, toward, y, taken, lists, learned=True)]
    return {name: [parts[0], parts[1], *vars(parts[2]).values()] for name, parts in found.items()}


#: How scores are made: as at random, with few edges, with scores at their friction to the last bit, so large
#: that fidelities end at one, without any edge.
KINDS = ["random", "few", "at the friction", "large", "none"]


def adversarial(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> list[Tensor]:
    spread = {"few": 0.6, "large": 3000.0}.get(kind, 2.0)
    (q, k, v), *_ = problem(shape, dtype, spread=spread, seed=seed)
    q, k, v = (x.detach() for x in (q, k, v))
    if kind == "none":
        k = -q[:, :, :: q.shape[2] // k.shape[2]].contiguous()
        k[:] = -q[:, :1, :1]
        q[:] = q[:, :1, :1]
    if kind == "at the friction":
        # q k / sqrt(K) is ln of the distance to the first key, as near as 16 bits come to it.
        tokens, width = shape[0], shape[3]
        distance = torch.arange(tokens, device=q.device).clamp(min=1).float()
        q[:], k[:] = 0.0, 0.0
        q[..., 0] = (distance.log() * width**0.5).to(dtype)[None, :, None]
        k[:, ::3, :, 0] = 1.0
    return [q, k, v]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES[:3])
@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_equals_dense_to_the_last_bit(
    kernels: Any, shape: tuple[int, int, int, int], rule: Rule, kind: str
) -> None:
    if not ON_GPU and rule != RULES[0] and (kind != "random" or shape != SHAPES[0]):
        pytest.skip("on a GPU alone: the interpreter is slow")
    _, bias, friction, document = problem(shape, PLAIN)
    if kind in ("at the friction", "none"):
        bias, friction = torch.zeros_like(bias), torch.ones_like(friction)
    q, k, v = adversarial(kind, shape, PLAIN, seed=1)
    edges = kernels.edges_of(q, k, v, document, bias, friction, rule, None, tiles(kernels))
    found = arms(kernels, edges, torch.randn_like(q))
    assert all(x.isfinite().all() for x in found["dense"])
    if kind == "none":
        assert not found["dense"][0].any()
    for name in ("early", "prepass"):
        for ours, dense in zip(found[name], found["dense"], strict=True):
            assert torch.equal(ours, dense), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1.0, -0.3])
def test_looking_ahead_misses_no_edge_and_keeps_few_tiles_without(
    kernels: Any, kind: str, sign: float
) -> None:
    shape = SHAPES[0]
    _, bias, friction, document = problem(shape, PLAIN)
    q, k, v = adversarial(kind, shape, PLAIN, seed=2)
    # Of several parts of 16 queries.
    cut = kernels.EdgeTiles() if ON_GPU else kernels.EdgeTiles(queries=32, keys=16)
    edges = kernels.edges_of(q, k, v, document, bias, sign * friction, RULES[0], None, cut)
    nothing = torch.zeros(edges.heads, device=DEVICE)
    _, _, live = kernels.forward(edges, kernels.DENSE.value, slack=nothing)
    kept = kernels.tiles_with_edges(edges)
    assert not ((live == 1) & (kept == 0)).any()
    found = kernels.tiles_with_edges(edges, kernels.rounding_of_scores(edges))
    assert not ((live == 1) & (found == 0)).any()
    if kind == "random" and sign > 0:
        assert int(live.sum()) <= int(found.sum()) <= int(kept.sum()) < int(live.numel())


@pytest.mark.parametrize("tokens", [1, 130, 300])
def test_rounding_is_bounded_by_the_largest_norms(kernels: Any, tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    # Heads of a wider projection, as a network gives them.
    wide = torch.randn(2, tokens, 3, 48, generator=generator).to(DEVICE, PLAIN)
    found = kernels.largest_norms(wide[..., 8:32])
    expected = wide[..., 8:32].double().norm(dim=-1).amax(dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.0)


def test_tiles_are_listed_in_order_both_ways(kernels: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    flags = (torch.rand(3, 5, 9, generator=generator) < 0.4).to(torch.int8).to(DEVICE)
    lists = kernels.list_tiles(flags, both_ways=True)
    for n, i in itertools.product(range(3), range(5)):
        expected = flags[n, i].nonzero().flatten().tolist()
        assert lists.keys[n, i, : int(lists.key_counts[n, i])].tolist() == expected
    for n, j in itertools.product(range(3), range(9)):
        expected = flags[n, :, j].nonzero().flatten().tolist()
        assert lists.queries[n, j, : int(lists.query_counts[n, j])].tolist() == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_every_entry_is_written(kernels: Any, shape: tuple[int, int, int, int]) -> None:
    (q, k, v), bias, friction, document = problem(shape, PLAIN)
    q, k, v = q.detach(), k.detach(), v.detach()
    edges = kernels.edges_of(q, k, v, document, bias, friction, RULES[0], None, tiles(kernels))
    with new_tensors_without_numbers():
        found = arms(kernels, edges, torch.ones_like(q))
    assert all(x.isfinite().all() for parts in found.values() for x in parts)


@pytest.mark.parametrize("rule", RULES[:4])
@pytest.mark.parametrize("window", [None, 30])
def test_the_newest_token_reads_what_the_plain_form_reads(
    kernels: Any, rule: Rule, window: int | None
) -> None:
    places, place = (700, 613) if ON_GPU else (77, 61)
    (q, k, v), bias, friction, document = problem((places, 4, 2, 64 if ON_GPU else 24), PLAIN, seed=5)
    q, k, v = q.detach()[:, place : place + 1], k.detach(), v.detach()
    where = {
        "key_document_BS": document,
        "key_positions_S": torch.arange(places, device=DEVICE),
        "window": window,
        "rule": rule,
        "bias_H": bias,
        "friction_H": friction,
    }
    position = torch.tensor([place], device=DEVICE)
    mine = document[:, place : place + 1]
    part = {} if ON_GPU else {"part": 16}
    sparse, dense = (
        kernels.friction_decode(
            q, k, v, coarse_rows(k), document_B1=mine, position_1=position, read_all=every, **where, **part
        )
        for every in (False, True)
    )
    assert torch.equal(sparse, dense)
    exact = friction_attend(
        q.double(),
        k.double(),
        v.double(),
        document_BT=mine,
        positions_T=position,
        segments=None,
        **where,
    )
    assert error(sparse, exact) < TOLERANCE[PLAIN]


def test_the_operators_are_what_compiled_code_takes_them_for(kernels: Any, tiles_as_here: None) -> None:
    for rule in (RULES[0], RULES[1], None):
        leaves, bias, friction, document = problem(SHAPES[-1], PLAIN)
        form = None if rule is None else rule.form
        capacity = None if rule is None else rule.capacity
        arguments = (*leaves, document, bias, friction, form, 1.25, capacity, None, True)
        torch.library.opcheck(kernels._attend, arguments)
