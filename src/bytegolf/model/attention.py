"""Grouped-query attention with normalized queries and keys, learned query gain and rotary positions.

Scores become weights by a softmax, or through friction.

Shapes: B rows, T tokens, S tokens with those in memory, D width, H query heads, G key/value heads, K head
width. Differential attention has N = 2H and M = 2G heads of width h = K / 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.attention import attend
from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.differential import as_half_heads, for_half_heads, sum_and_difference
from bytegolf.model.exclusive import without_own_value
from bytegolf.model.friction import Friction
from bytegolf.model.gates import Gate
from bytegolf.model.linear import Linear, ResidualLinear, joint
from bytegolf.model.roles import Component, Role
from bytegolf.model.rotary import Rotary, RotaryScaling, rotate
from bytegolf.model.stream import Stream


@dataclass(frozen=True)
class Attention:
    """Settings of one attention layer.

    heads: query heads. key_value_heads: shared key/value heads; divides `heads`. head_width: dimensions
    of a head; 0 means width / heads. window: how many earlier tokens are visible; None means all of the
    document. rotary_dimensions: dimensions that carry position; 0 means all. query_gain: start value of
    the learned factor on each query head (after normalization and rotation). rotary_scaling: what becomes of
    positions in longer rows; None leaves them. exclusive: the token's own value is removed from what a head
    reads. differential: start value of the learned factor λ on the second of two half-wide attentions, 0.5 as
    published; None for one attention. norm_output: what all heads read together is normalized.
    shared_values: the model's value embedding is added to the values, with a learned factor from 1.
    gate: what each head hands on is multiplied by a learned function of the token, after all that is above;
    None for no gate. tied_values: values are the keys as projected, neither normalized nor rotated, and there
    is no value matrix. friction: what the distance to a key costs, and what stands in for the softmax; None
    for plain attention. rotary: queries and keys are rotated by their positions. norm_query_key: they are
    normalized before; without it scores vary by a third of `query_gain` at the start, not by all of it.
    """

    heads: int = 8
    key_value_heads: int = 4
    head_width: int = 0
    window: int | None = None
    rotary_dimensions: int = 0
    rotary_base: float = 10_000.0
    query_gain: float = 1.5
    rotary_scaling: RotaryScaling | None = None
    exclusive: bool = False
    differential: float | None = None
    norm_output: bool = False
    shared_values: bool = False
    gate: Gate | None = None
    tied_values: bool = False
    friction: Friction | None = None
    rotary: bool = True
    norm_query_key: bool = True

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

    def value_width(self, width: int) -> int:
        """Channels of all value heads together, for a residual stream of `width`."""
        return self.key_value_heads * (self.head_width or width // self.heads)

    def build(self, width: int, key: str) -> "AttentionLayer":
        """The module for a residual stream of `width`; `key` names its decoding memory."""
        return AttentionLayer(self, width, key)


class AttentionLayer(Component):
    """y = s ⊙ W_o · attend(gain · rope(norm(W_q x)), rope(norm(W_k x)), W_v x); starts at zero output.

    With `differential` each head's halves attend on their own, with a gain in common. With `tied_values` W_v
    is W_k. A gate's factor is on each head's part of what W_o reads.
    """

    def __init__(self, spec: Attention, width: int, key: str) -> None:
        super().__init__()
        if not spec.head_width and width % spec.heads:
            raise RecipeError(f"width={width} is no multiple of heads={spec.heads}; set head_width")
        self.spec, self.key = spec, key
        self.head_width = spec.head_width or width // spec.heads
        inner, shared = spec.heads * self.head_width, spec.key_value_heads * self.head_width
        parts = 1 if spec.differential is None else 2
        turning, odd = divmod(self.head_width, parts)
        rotated = spec.rotary_dimensions or turning
        if odd or turning % 2 or rotated > turning:
            half = "" if parts == 1 else " half"
            raise RecipeError(
                f"rotary_dimensions={rotated} does not fit a{half} head of {self.head_width / parts:g}, "
                "which must be even"
            )
        self.query = Linear(width, inner, Role.ATTENTION_QUERY)
        self.keys = Linear(width, shared, Role.ATTENTION_KEY)
        if not spec.tied_values:
            self.values = Linear(width, shared, Role.ATTENTION_VALUE)
        self.out = ResidualLinear(inner, width, Role.ATTENTION_OUT)
        self.gain_H = self.parameter("gain_H", torch.full((spec.heads,), spec.query_gain), Role.SCALAR)
        if spec.differential is not None:
            self.lambda_1 = self.parameter("lambda_1", torch.full((1,), spec.differential), Role.SCALAR)
        if spec.shared_values:
            self.shared_1 = self.parameter("shared_1", torch.ones(1), Role.SCALAR)
        self.gate = None if spec.gate is None else spec.gate.build(width, spec.heads, inner)
        self.friction = None if spec.friction is None else spec.friction.build(spec.heads * parts, key)
        self.rotary = Rotary(turning, rotated, spec.rotary_base, spec.rotary_scaling)

    def forward(self, x_BTD: Tensor, stream: Stream, residual_BTD: Tensor | None = None) -> Tensor:
        projected = self._projected(x_BTD)
        q_BTHK, k_BTGK, v_BTGK = (y.unflatten(-1, (-1, self.head_width)) for y in projected)
        if self.spec.shared_values:
            assert stream.shared_values_BTX is not None
            shared_BTX = self.shared_1.to(x_BTD.dtype) * stream.shared_values_BTX
            v_BTGK = v_BTGK + shared_BTX.unflatten(-1, (-1, self.head_width))
        gain_H = self.gain_H.to(q_BTHK.dtype)
        if self.spec.differential is None:
            y_BTHK = self._read(q_BTHK, k_BTGK, v_BTGK, gain_H, stream)
        else:
            groups = self.spec.key_value_heads
            q_BTNh, k_BTMh, v_BTMh = (as_half_heads(part, groups) for part in (q_BTHK, k_BTGK, v_BTGK))
            y_BTNh = self._read(q_BTNh, k_BTMh, v_BTMh, for_half_heads(gain_H, groups), stream)
            y_BTHK = sum_and_difference(y_BTNh, self.lambda_1, groups)
        if self.spec.norm_output:
            # Before a token's own value is removed: where it saw only itself, rounding alone is then left,
            # and normalized, that would be as large as what others read.
            y_BTHK = rms_norm(y_BTHK.flatten(2)).view_as(y_BTHK)
        if self.spec.exclusive:
            y_BTHK = without_own_value(y_BTHK, v_BTGK)
        if self.gate is not None:
            read_BTX = {"input": x_BTD, "residual": residual_BTD, "query": projected[0]}[self.gate.reads]
            assert read_BTX is not None, "a gate that reads the residual was not given it"
            y_BTHK = y_BTHK * self.gate(read_BTX)[..., None]
        return self.out(y_BTHK.flatten(2))

    def _projected(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (B, T, heads of each × K)."""
        if self.spec.tied_values:
            query_BTX, keys_BTX = joint(x_BTD, self.query, self.keys)
            return query_BTX, keys_BTX, keys_BTX
        return joint(x_BTD, self.query, self.keys, self.values)

    def _read(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, gain_H: Tensor, stream: Stream) -> Tensor:
        """What each head reads from the visible tokens, (B, T, H, K); keys and values of T tokens come in."""
        if self.spec.norm_query_key:
            q_BTHK, k_BSGK = rms_norm(q_BTHK), rms_norm(k_BSGK)
        if self.spec.rotary:
            cos, sin = (table.to(q_BTHK.dtype) for table in self.rotary.tables(stream.positions_T))
            q_BTHK, k_BSGK = rotate(q_BTHK, cos, sin), rotate(k_BSGK, cos, sin)
        q_BTHK = q_BTHK * gain_H[:, None]
        k_BTGK = k_BSGK
        if stream.memory is not None:
            k_BSGK = stream.memory.extend(f"{self.key}.keys", k_BTGK)
            v_BSGK = stream.memory.extend(f"{self.key}.values", v_BSGK)
        if self.friction is not None:
            return self.friction(q_BTHK, k_BTGK, k_BSGK, v_BSGK, stream, self.spec.window)
        return attend(
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

    def flops_per_token(self, length: int) -> float:
        """Multiply-adds × 2 of the score and value products for one token, causal, forward only."""
        visible = length / 2 if self.spec.window is None else min(length / 2, self.spec.window)
        return 4.0 * visible * self.spec.heads * self.head_width
