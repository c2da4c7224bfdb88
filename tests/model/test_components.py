"""Laws of single components: rotary positions, attention settings, memory, weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.linear import Linear
from bytegolf.model.mlp import SquaredMlp, SquaredMlpLayer, SwiGlu
from bytegolf.model.roles import MATRIX_ROLES, Role
from bytegolf.model.rotary import Rotary, rotate
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory, Stream


def turned(x_K: torch.Tensor, position: int, rotary: Rotary) -> torch.Tensor:
    cos, sin = rotary.tables(torch.tensor([position]))
    return rotate(x_K.view(1, 1, 1, -1), cos.double(), sin.double()).flatten()


@settings(max_examples=40, deadline=None)
@given(
    q=st.integers(0, 300),
    k=st.integers(0, 300),
    shift=st.integers(0, 300),
    rotated=st.sampled_from([2, 6, 8]),
)
def test_rotary_scores_depend_on_distance_alone(q: int, k: int, shift: int, rotated: int) -> None:
    rotary = Rotary(8, rotated, 100.0)
    torch.manual_seed(q + 1000 * k)
    a, b = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    here = turned(a, q, rotary) @ turned(b, k, rotary)
    there = turned(a, q + shift, rotary) @ turned(b, k + shift, rotary)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-3)
    torch.testing.assert_close(turned(a, q, rotary).norm(), a.norm(), rtol=1e-6, atol=0)


def test_partial_rotary_leaves_the_other_dimensions_in_place() -> None:
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    turned_x = turned(x, 17, Rotary(8, 4, 100.0))
    moved = turned_x != x
    # Two pairs (i, i + 4) turn.
    assert moved.tolist() == [True, True, False, False, True, True, False, False]


def test_position_zero_turns_nothing() -> None:
    x = torch.randn(8, dtype=torch.float64)
    assert torch.equal(turned(x, 0, Rotary(8, 8, 10_000.0)), x)


numbers = st.integers(-3, 9)


@settings(max_examples=150, deadline=None)
@given(
    heads=numbers,
    shared=numbers,
    head_width=numbers,
    window=st.none() | numbers,
    rotated=numbers,
    base=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1e4]),
    hidden=numbers,
    slope=st.floats(-1, 2),
)
def test_settings_work_or_are_refused(
    heads: int,
    shared: int,
    head_width: int,
    window: int | None,
    rotated: int,
    base: float,
    hidden: int,
    slope: float,
) -> None:
    ids, starts = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)
    try:
        mixer = Attention(heads, shared, head_width, window, rotated, base)
        model = Model(12, (Block(mixer, SquaredMlp(hidden, slope)),), vocabulary=3).build()
    except BytegolfError:
        return
    with torch.no_grad():
        model.stack.blocks[0].mixer.out.weight.normal_()  # type: ignore[union-attr]
        assert model.losses(ids, ids, starts).isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Attention(heads=3, key_value_heads=2), "heads=3 is no multiple of key_value_heads=2"),
        (lambda: Attention(window=0), "window=0"),
        (lambda: Attention(rotary_dimensions=3), "rotary_dimensions=3"),
        (lambda: Attention(head_width=7), "head_width=7"),
        (lambda: Attention(head_width=-2), "head_width=-2"),
        (lambda: Attention(rotary_base=0.0), "rotary_base=0.0"),
        (lambda: Attention(heads=8).build(12, "a"), "width=12 is no multiple of heads=8; set head_width"),
        (lambda: Attention(heads=4, rotary_dimensions=8).build(16, "a"), "rotary_dimensions=8 does not fit"),
        (lambda: Attention(heads=4).build(12, "a"), "a head of 3"),
        (lambda: SquaredMlp(0), "hidden=0"),
        (lambda: SquaredMlp(4, slope=1.5), "slope=1.5"),
        (lambda: SwiGlu(-1), "hidden=-1"),
        (lambda: TiedEmbedding(0.0), "deviation=0.0"),
    ],
)
def test_errors_name_the_value(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message):
        build()


def test_the_leaky_square_has_the_stated_derivative() -> None:
    layer = SquaredMlpLayer(SquaredMlp(1, slope=0.5), 1).double()
    with torch.no_grad():
        layer.up.weight.fill_(1.0)
        layer.down.weight.fill_(1.0)
    h = torch.tensor([[[-2.0], [-0.5], [0.5], [3.0]]], dtype=torch.float64, requires_grad=True)
    y = layer(h)
    y.sum().backward()
    assert y.flatten().tolist() == [1.0, 0.0625, 0.25, 9.0]
    assert h.grad is not None
    # 2h above zero, 2 · slope² · h below.
    assert h.grad.flatten().tolist() == [-1.0, -0.25, 1.0, 6.0]


@torch.no_grad()
def test_projections_back_into_the_residual_start_at_zero_and_others_do_not() -> None:
    model = Model(
        12, (Block(Attention(2, 1), SquaredMlp(8)), Block(Attention(2, 2), SwiGlu(8))), vocabulary=3
    )
    layers = [module for module in model.build().modules() if isinstance(module, Linear)]
    assert len(layers) == 4 + 2 + 4 + 3
    for layer in layers:
        role = layer.roles["weight"]
        if role in (Role.ATTENTION_OUT, Role.MLP_DOWN):
            assert not layer.weight.any()
        else:
            bound = layer.weight.shape[1] ** -0.5
            assert bound / 2 < float(layer.weight.abs().max()) <= bound
        assert role in MATRIX_ROLES


def test_building_is_a_function_of_torchs_seed() -> None:
    spec = Model(12, (Block(Attention(2, 1), SquaredMlp(8)),), vocabulary=3)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(spec.build().state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["embedding.weight"], states[2]["embedding.weight"])


def test_memory_grows_by_what_is_fed_and_continues_positions_and_documents() -> None:
    memory = Memory()
    first = Stream.of(torch.tensor([[True, False, True]]), memory)
    assert first.document_BT.tolist() == [[1, 1, 2]]
    assert first.positions_T.tolist() == [0, 1, 2]
    second = Stream.of(torch.tensor([[False, True]]), memory)
    assert second.document_BT.tolist() == [[2, 3]]
    assert second.key_document_BS.tolist() == [[1, 1, 2, 2, 3]]
    assert second.positions_T.tolist() == [3, 4]
    assert second.key_positions_S.tolist() == [0, 1, 2, 3, 4]
    assert memory.position == 5


def test_a_row_that_begins_inside_a_document_has_that_document_as_its_first() -> None:
    stream = Stream.of(torch.tensor([[False, False, True, False]]))
    assert stream.document_BT.tolist() == [[0, 0, 1, 1]]
