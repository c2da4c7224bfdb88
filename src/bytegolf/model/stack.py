"""The order of layers: residual mixing with the embedded input, blocks, loops over them, U-Net skips.

Shapes: B rows, T tokens, D width, N skips.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.loop import Loop, layer_order
from bytegolf.model.mlp import Mlp, SquaredMlp
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

Mixer = Attention

#: Whether the first half's outputs return in the second: added, blended by a learned gate, or not at all.
Skips = bool | Literal["gated"]

#: What layers read at the start: their input alone, or early layers mostly the embedded input.
ResidualMix = Literal["input", "phase"]


@dataclass(frozen=True)
class Block:
    """One layer: a sequence mixer, then a channel mixer, each added to the residual stream."""

    mixer: Mixer = Attention()
    mlp: Mlp = SquaredMlp(hidden=1024)

    def build(
        self, width: int, key: str, *, input_share: float | None = None, norm_scale: float | None = None
    ) -> "BlockLayer":
        """The module for a residual stream of `width`; `key` names its decoding memory. See `BlockLayer`."""
        return BlockLayer(self, width, key, input_share, norm_scale)


class BlockLayer(Component):
    """x ← m₀ x + m₁ x₀;  x ← x + mixer(c norm(x));  x ← x + mlp(c norm(x)).

    m₀, m₁ are learned per channel and start at 1, 0, or with `input_share` p at p, 1 − p; x₀ is the
    normalized embedding. c is `norm_scale`, a constant. The learned factor per channel of what is added
    belongs to the last projection of mixer and mlp.
    """

    norm_scale: Tensor | None

    def __init__(
        self, spec: Block, width: int, key: str, input_share: float | None, norm_scale: float | None
    ) -> None:
        super().__init__()
        self.mixer: AttentionLayer = spec.mixer.build(width, f"{key}.mixer")
        self.mlp: nn.Module = spec.mlp.build(width)
        share = 1.0 if input_share is None else input_share
        mix = torch.stack([torch.full((width,), share), torch.full((width,), 1.0 - share)])
        self.residual_mix_2D = self.parameter("residual_mix_2D", mix, Role.SCALAR)
        # A tensor, not a number, which would give each layer compiled code of its own.
        scale = None if norm_scale is None else torch.tensor(norm_scale)
        self.register_buffer("norm_scale", scale, persistent=False)

    def forward(self, x_BTD: Tensor, x0_BTD: Tensor, stream: Stream) -> Tensor:
        mix_2D = self.residual_mix_2D.to(x_BTD.dtype)
        x_BTD = mix_2D[0] * x_BTD + mix_2D[1] * x0_BTD
        x_BTD = x_BTD + self.mixer(self._normalized(x_BTD), stream, x_BTD)
        return x_BTD + self.mlp(self._normalized(x_BTD))

    def _normalized(self, x_BTD: Tensor) -> Tensor:
        return rms_norm(x_BTD) if self.norm_scale is None else self.norm_scale * rms_norm(x_BTD)


def add_skip(x_BTD: Tensor, skip_BTD: Tensor, factor_D: Tensor) -> Tensor:
    """x + s · skip with one factor per channel."""
    return x_BTD + factor_D.to(x_BTD.dtype) * skip_BTD


def blend_skip(x_BTD: Tensor, skip_BTD: Tensor, factor_D: Tensor, gate_D: Tensor) -> Tensor:
    """g x + (1 − g) s · skip with g = σ(γ), one γ and one s per channel (challenge entry #1089)."""
    share_D = torch.sigmoid(gate_D).to(x_BTD.dtype)
    return torch.lerp(factor_D.to(x_BTD.dtype) * skip_BTD, x_BTD, share_D)


def phase_share(layer: int, layers: int) -> float:
    """What a layer starts to read of its input: σ(3 (l / (L − 1) − ½)); the rest is the embedded input."""
    depth = layer / max(layers - 1, 1)
    return 1.0 / (1.0 + math.exp(-3.0 * (depth - 0.5)))


class Stack(Component):
    """All blocks in order. With skips, the first half's outputs return, last first, before the second half.

    `order` holds the layer that runs at each of n places; with a loop some run more than once. The first
    ⌊n/2⌋ places store their output; place ⌊n/2⌋ + i first merges the last one not yet used (U-Net skips) with
    the factor s_i, learned per channel and starting at 1, and where `skips` is "gated" the gate γ_i, starting
    at 0. `scaled_norms`: layer l, in every pass, has c = 1/√(l + 1) after its normalizations.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        width: int,
        *,
        skips: Skips,
        loop: Loop | None = None,
        residual_mix: ResidualMix = "input",
        scaled_norms: bool = False,
    ) -> None:
        super().__init__()
        self.order = layer_order(len(blocks), loop)
        self.blocks = nn.ModuleList(
            block.build(
                width,
                f"blocks.{i}",
                input_share=phase_share(i, len(blocks)) if residual_mix == "phase" else None,
                norm_scale=(i + 1) ** -0.5 if scaled_norms else None,
            )
            for i, block in enumerate(blocks)
        )
        self.storing = len(self.order) // 2 if skips else 0
        if self.storing:
            self.skip_ND = self.parameter("skip_ND", torch.ones(self.storing, width), Role.SCALAR)
        self.gated = skips == "gated" and self.storing > 0
        if self.gated:
            self.gate_ND = self.parameter("gate_ND", torch.zeros(self.storing, width), Role.SCALAR)
        self.merge: Callable[..., Tensor] = blend_skip if self.gated else add_skip

    def compile_parts(self) -> None:
        """Compiles each block, and skips apart from them: inside, they would make two kinds of block."""
        # Blocks share one function, of which torch keeps eight forms and then gives up compiling: too few
        # for a network whose layers differ.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for block in self.blocks:
            block.compile()
        self.merge = torch.compile(self.merge)

    @property
    def layers(self) -> list[BlockLayer]:
        """The blocks, first to last, each once."""
        return [block for block in self.blocks if isinstance(block, BlockLayer)]

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        # Views are tensor objects of their own: code called with one object twice is compiled again.
        x0_BTD = x_BTD.view_as(x_BTD)
        stored: list[Tensor] = []
        for place, layer in enumerate(self.order):
            if place >= self.storing and stored:
                factors = self._skip_factors(place - self.storing)
                x_BTD = self.merge(x_BTD.view_as(x_BTD), stored.pop(), *factors)
            if stream.memory is not None:
                stream.memory.turn = self.order[:place].count(layer)
            x_BTD = self.blocks[layer](x_BTD, x0_BTD, stream)
            if place < self.storing:
                stored.append(x_BTD)
        if stream.memory is not None:
            stream.memory.turn = 0
        return x_BTD

    def _skip_factors(self, number: int) -> tuple[Tensor, ...]:
        if self.gated:
            return self.skip_ND[number], self.gate_ND[number]
        return (self.skip_ND[number],)
