"""Friction: the further back a key is, the more its score must give before it counts at all.

In place of a softmax, edges below their friction weigh exactly nothing, so that what is left is sparse (the
published model RRT-355M, 2026). Shapes: B rows, T tokens, S tokens with those in memory, H query heads, G
key/value heads, K head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.friction import Form, Rule, coarse_rows, decodes_coarsely, friction_attend
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

#: Is shown queries (B, T, H, K), keys (B, S, G, K), the stream and the window.
EdgeObserver = Callable[[Tensor, Tensor, Stream, int | None], None]


@dataclass(frozen=True)
class Friction:
    """What stands in for the softmax of an attention layer, or is added to its scores.

    A score gives ln(max(i − j, 1)) to reach from token i to token j; what is left over decides the weight.
    form: "eta_mu", left over times its fidelity (Ω μ of the theory), or "mu", its fidelity alone;
    "log_domain", the fidelity of its exponential; "softmax", as ever. exponent: n of the fidelity, 1.25 as
    published. capacity: the most that a query's weights add up to, None for no bound. head_bias: a learned
    number of each head is added to its scores, from 0. head_friction: friction is multiplied by a learned
    number of each head, from 1.
    """

    form: Form | Literal["softmax"] = "eta_mu"
    exponent: float = 1.25
    capacity: float | None = 4.0
    head_bias: bool = False
    head_friction: bool = False

    def __post_init__(self) -> None:
        # Making the rule refuses what is wrong in it.
        if self.rule is None and (self.capacity is not None or self.head_bias):
            raise RecipeError(
                "the weights of a softmax add up to 1 and no bias changes them; "
                "set capacity to None and head_bias to false with form softmax"
            )

    @property
    def rule(self) -> Rule | None:
        """The weights of edges; None for a softmax."""
        return None if self.form == "softmax" else Rule(self.form, self.exponent, self.capacity)

    def build(self, heads: int, key: str) -> "FrictionLayer":
        """The module for `heads` query heads; `key` names its decoding memory."""
        return FrictionLayer(self, heads, key)


class FrictionLayer(Component):
    """What heads read through friction.

    `observer`, where set, is shown what every score is made of. Never while compiled code runs.
    """

    def __init__(self, spec: Friction, heads: int, key: str) -> None:
        super().__init__()
        self.rule, self.key = spec.rule, key
        self.observer: EdgeObserver | None = None
        self.bias_H = self.parameter("bias_H", torch.zeros(heads), Role.SCALAR) if spec.head_bias else None
        self.friction_H = (
            self.parameter("friction_H", torch.ones(heads), Role.SCALAR) if spec.head_friction else None
        )

    def forward(
        self,
        q_BTHK: Tensor,
        k_BTGK: Tensor,
        k_BSGK: Tensor,
        v_BSGK: Tensor,
        stream: Stream,
        window: int | None,
    ) -> Tensor:
        """(B, T, H, K); see `bytegolf.kernels.friction.friction_attend`. k_BTGK: the keys of these tokens."""
        if self.observer is not None:
            self.observer(q_BTHK, k_BSGK, stream, window)
        return friction_attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            rule=self.rule,
            bias_H=self.bias_H,
            friction_H=self.friction_H,
            document_BT=stream.document_BT,
            key_document_BS=stream.key_document_BS,
            positions_T=stream.positions_T,
            key_positions_S=stream.key_positions_S,
            window=window,
            segments=stream.segments,
            coarse=self._coarse(q_BTHK, k_BTGK, stream),
        )

    def _coarse(self, q_BTHK: Tensor, k_BTGK: Tensor, stream: Stream) -> tuple[Tensor, Tensor] | None:
        """The keys in memory in 8 bits, with those of these tokens, where decoding reads them so."""
        if stream.memory is None or not decodes_coarsely(q_BTHK, self.rule):
            return None
        codes_BTGK, notes_BTG3 = coarse_rows(k_BTGK)
        return (
            stream.memory.extend(f"{self.key}.codes", codes_BTGK),
            stream.memory.extend(f"{self.key}.notes", notes_BTG3),
        )
