"""Friction attention on GPUs as an operator with gradients: which kernels run when.

Tiles are left early; training notes which had edges, and the backward pass visits these alone. Shapes: B
rows, T tokens, H query heads, G key/value heads, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from bytegolf.kernels.friction.backward import backward
from bytegolf.kernels.friction.costs import LN_2, head_costs
from bytegolf.kernels.friction.forward import DENSE, EARLY, LISTED, forward
from bytegolf.kernels.friction.gate import Form, Rule
from bytegolf.kernels.friction.launch import Edges, EdgeTiles, borders
from bytegolf.kernels.friction.lists import list_tiles
from bytegolf.kernels.friction.norms import largest_norms
from bytegolf.kernels.friction.prepass import tiles_with_edges

#: Tokens of a row from which looking through it in 8 bits first pays; None while it was measured to at no
#: length (benchmarks/notes.md).
PREPASS_TOKENS: int | None = None

#: Where torch knows the operators: a copy of this module, which an exported model brings, has its own.
_SPACE = __name__.replace(".", "_")


def fused_friction_attention(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    *,
    rule: Rule | None,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    document_BT: Tensor,
    window: int | None,
) -> Tensor:
    """See `bytegolf.kernels.friction.friction_attend`; 16-bit tensors on a CUDA GPU."""
    form, exponent, capacity = (
        (None, 1.0, None) if rule is None else (rule.form, rule.exponent, rule.capacity)
    )
    y_BTHK, _, _ = _attend(
        *(x if x.stride(-1) == 1 else x.contiguous() for x in (q_BTHK, k_BTGK, v_BTGK)),
        document_BT,
        bias_H,
        friction_H,
        form,
        exponent,
        capacity,
        window,
        torch.is_grad_enabled(),
    )
    return y_BTHK


def edges_of(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    document_BT: Tensor | None,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    rule: Rule | None,
    window: int | None = None,
    tiles: EdgeTiles | None = None,
) -> Edges:
    """What the kernels take. Without documents and window every token sees all before it."""
    (_, tokens, heads, _), device = q_BTHK.shape, q_BTHK.device
    tiles = EdgeTiles.of(rule) if tiles is None else tiles
    places = -(-tokens // tiles.queries) * tiles.queries
    first_BT, last_BT = (None, None) if document_BT is None else borders(document_BT, window)
    return Edges(
        q_BTHK,
        k_BTGK,
        v_BTGK,
        first_BT,
        last_BT,
        head_costs(bias_H, friction_H, heads, places, device),
        rule,
        tiles,
    )


def rounding_of_scores(edges: Edges) -> Tensor:
    """(B·H,): by how much x of an edge may differ between kernels at most, for finite scores.

    Sums of K products in float32, of either order, are within K 2⁻²² ‖q‖ ‖k‖ of each other.
    """
    q_BH, k_BG = largest_norms(edges.q_BTHK), largest_norms(edges.k_BTGK)
    heads, width = edges.q_BTHK.shape[2:]
    k_BH = k_BG.repeat_interleave(heads // k_BG.shape[1], dim=1)
    return (q_BH * k_BH * (width**0.5 * 2.0**-22) + 2.0**-12).flatten()


@torch.library.custom_op(f"{_SPACE}::friction", mutates_args=())
def _attend(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    document_BT: Tensor,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    form: str | None,
    exponent: float,
    capacity: float | None,
    window: int | None,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is read, what each query took, and, in training, which tiles had edges."""
    rule = _rule(form, exponent, capacity)
    edges = edges_of(q_BTHK, k_BTGK, v_BTGK, document_BT, bias_H, friction_H, rule, window)
    if rule is None:
        return forward(edges, DENSE.value)
    if training:
        return forward(edges, EARLY.value, slack=rounding_of_scores(edges))
    if PREPASS_TOKENS is None or q_BTHK.shape[1] < PREPASS_TOKENS:
        return forward(edges, EARLY.value)
    return forward(edges, LISTED.value, list_tiles(tiles_with_edges(edges), both_ways=False))


def _rule(form: str | None, exponent: float, capacity: float | None) -> Rule | None:
    known: dict[str, Form] = {"mu": "mu", "eta_mu": "eta_mu", "log_domain": "log_domain"}
    return None if form is None else Rule(known[form], exponent, capacity)


@_attend.register_fake
def _(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    document_BT: Tensor,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    form: str | None,
    exponent: float,
    capacity: float | None,
    window: int | None,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, tokens, heads, _ = q_BTHK.shape
    tiles = EdgeTiles.of(_rule(form, exponent, capacity))
    taken = (rows * heads, tokens) if form is None or capacity is not None else (0,)
    flags = (rows * heads, -(-tokens // tiles.queries), -(-tokens // tiles.keys))
    return (
        q_BTHK.new_empty(q_BTHK.shape),
        q_BTHK.new_empty(taken, dtype=torch.float32),
        q_BTHK.new_empty(flags if training and form is not None else (0,), dtype=torch.int8),
    )


@torch.library.custom_op(f"{_SPACE}::friction_gradient", mutates_args=())
def _gradient(
    y_gradient_BTHK: Tensor,
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    document_BT: Tensor,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    y_BTHK: Tensor,
    taken: Tensor,
    flags: Tensor,
    form: str | None,
    exponent: float,
    capacity: float | None,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values, bias and friction; the last two empty where there are none."""
    rule = _rule(form, exponent, capacity)
    edges = edges_of(q_BTHK, k_BTGK, v_BTGK, document_BT, bias_H, friction_H, rule, window)
    lists = None if rule is None else list_tiles(flags, both_ways=True)
    learned = bias_H is not None or friction_H is not None
    found = backward(edges, y_gradient_BTHK, y_BTHK, taken, lists, learned=learned)
    of_heads = [x.sum(dim=(0, 2)) if learned else x for x in (found.bias_BHT, found.friction_BHT * LN_2)]
    return found.q_BTHK, found.k_BTGK, found.v_BTGK, of_heads[0], of_heads[1]


@_gradient.register_fake
def _(
    y_gradient_BTHK: Tensor,
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    document_BT: Tensor,
    bias_H: Tensor | None,
    friction_H: Tensor | None,
    y_BTHK: Tensor,
    taken: Tensor,
    flags: Tensor,
    form: str | None,
    exponent: float,
    capacity: float | None,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    learned = bias_H is not None or friction_H is not None
    found = [x.new_empty(x.shape) for x in (q_BTHK, k_BTGK, v_BTGK)]
    size = q_BTHK.shape[2] if learned else 0
    of_heads = [q_BTHK.new_empty(size, dtype=torch.float32) for _ in range(2)]
    return found[0], found[1], found[2], of_heads[0], of_heads[1]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.form, ctx.exponent, ctx.capacity, ctx.window, _ = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _propagate(ctx: Any, y_gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, y_BTHK, taken, flags = ctx.saved_tensors
    q, k, v, bias, friction = _gradient(
        y_gradient.contiguous(),
        *tensors,
        y_BTHK,
        taken,
        flags,
        ctx.form,
        ctx.exponent,
        ctx.capacity,
        ctx.window,
    )
    _, _, _, _, bias_H, friction_H = tensors
    given = [None if leaf is None else found for leaf, found in ((bias_H, bias), (friction_H, friction))]
    return q, k, v, None, *given, None, None, None, None, None


_attend.register_autograd(_propagate, setup_context=_remember)
