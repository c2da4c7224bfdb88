"""Grouped-query attention with normalized queries and keys, learned query gain and rotary positions.

Shapes: B rows, T tokens, D width, H query heads, G key/value heads, K head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.attention import attend
from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.linear import Linear, ResidualLinear, joint
from bytegolf.model.roles import Component, Role
from bytegolf.model.rotary import Rotary, rotate
from bytegolf.model.stream import Stream


@dataclass(frozen=True)
class Attention:
    """Settings of one attention layer.

    heads: query heads. key_value_heads: shared key/value heads; divides `heads`. head_width: dimensions
    of a head; 0 means width / heads. window: how many earlier tokens are visible; None means all of the
    document. rotary_dimensions: dimensions that carry position; 0 means all. query_gain: start value of
    the learned factor on each query head (after normalization and rotation).
    """

    heads: int = 8
    key_value_heads: int = 4
    head_width: int = 0
    window: int | None = None
    rotary_dimensions: int = 0
    rotary_base: float = 10_000.0
    query_gain: float = 1.5

    def __post_init__(self) -> None:
        if self.heads < 1 or self.key_value_heads < 1 or self.heads % self.key_value_heads:
            raise RecipeError(
                f"heads={self.heads} is no multiple of key_value_heads={self.key_value_heads}; "
                "choose a divisor of heads"
            )
        if self.window is not None and self.window < 1:
            raise RecipeError(
                f"window={self.window}; give the number of earlier tokens to see, or None for all"
            )
        for name in ("rotary_dimensions", "head_width"):
            if getattr(self, name) < 0 or getattr(self, name) % 2:
                raise RecipeError(f"{name}={getattr(self, name)}; give an even number, or 0")
        if self.rotary_base <= 0:
            raise RecipeError(f"rotary_base={self.rotary_base}; give a positive number, usually 10000")

    def build(self, width: int, key: str) -> "AttentionLayer":
        """The module for a residual stream of `width`; `key` names its decoding memory."""
        return AttentionLayer(self, width, key)


class AttentionLayer(Component):
    """y = s ⊙ W_o · attend(gain · rope(norm(W_q x)), rope(norm(W_k x)), W_v x); starts at zero output."""

    def __init__(self, spec: Attention, width: int, key: str) -> None:
        super().__init__()
        if not spec.head_width and width % spec.heads:
            raise RecipeError(f"width={width} is no multiple of heads={spec.heads}; set head_width")
        self.spec, self.key = spec, key
        self.head_width = spec.head_width or width // spec.heads
        inner, shared = spec.heads * self.head_width, spec.key_value_heads * self.head_width
        rotated = spec.rotary_dimensions or self.head_width
        if self.head_width % 2 or rotated > self.head_width:
            raise RecipeError(
                f"rotary_dimensions={rotated} does not fit a head of {self.head_width}, which must be even"
            )
        self.query = Linear(width, inner, Role.ATTENTION_QUERY)
        self.keys = Linear(width, shared, Role.ATTENTION_KEY)
        self.values = Linear(width, shared, Role.ATTENTION_VALUE)
        self.out = ResidualLinear(inner, width, Role.ATTENTION_OUT)
        self.gain_H = self.parameter("gain_H", torch.full((spec.heads,), spec.query_gain), Role.SCALAR)
        self.rotary = Rotary(self.head_width, rotated, spec.rotary_base)

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        heads = (-1, self.head_width)
        projected = joint(x_BTD, self.query, self.keys, self.values)
        q_BTHK, k_BSGK, v_BSGK = (y.unflatten(-1, heads) for y in projected)
        q_BTHK, k_BSGK = rms_norm(q_BTHK), rms_norm(k_BSGK)
        cos, sin = (table.to(x_BTD.dtype) for table in self.rotary.tables(stream.positions_T))
        q_BTHK = rotate(q_BTHK, cos, sin) * self.gain_H.to(q_BTHK.dtype)[:, None]
        k_BSGK = rotate(k_BSGK, cos, sin)
        if stream.memory is not None:
            k_BSGK = stream.memory.extend(f"{self.key}.keys", k_BSGK)
            v_BSGK = stream.memory.extend(f"{self.key}.values", v_BSGK)
        y_BTHK = attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            document_BT=stream.document_BT,
            key_document_BS=stream.key_document_BS,
            positions_T=stream.positions_T,
            key_positions_S=stream.key_positions_S,
            window=self.spec.window,
            segments=stream.segments,
            newest_only=stream.newest_only,
        )
        return self.out(y_BTHK.flatten(2))

    def flops_per_token(self, length: int) -> float:
        """Multiply-adds × 2 of the score and value products for one token, causal, forward only."""
        visible = length / 2 if self.spec.window is None else min(length / 2, self.spec.window)
        return 4.0 * visible * self.spec.heads * self.head_width
