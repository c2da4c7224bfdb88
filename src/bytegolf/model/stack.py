"""The order of layers: residual mixing with the embedded input, blocks, U-Net skips.

Shapes: B rows, T tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.mlp import Mlp, SquaredMlp
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

Mixer = Attention


@dataclass(frozen=True)
class Block:
    """One layer: a sequence mixer, then a channel mixer, each added to the residual stream."""

    mixer: Mixer = Attention()
    mlp: Mlp = SquaredMlp(hidden=1024)

    def build(self, width: int, key: str) -> "BlockLayer":
        return BlockLayer(self, width, key)


class BlockLayer(Component):
    """x ← m₀ x + m₁ x₀;  x ← x + mixer(norm(x));  x ← x + mlp(norm(x)).

    m₀, m₁ are learned per channel and start at 1, 0; x₀ is the normalized embedding. The learned factor per
    channel of what is added belongs to the last projection of mixer and mlp.
    """

    def __init__(self, spec: Block, width: int, key: str) -> None:
        super().__init__()
        self.mixer: AttentionLayer = spec.mixer.build(width, f"{key}.mixer")
        self.mlp: nn.Module = spec.mlp.build(width)
        mix = torch.stack([torch.ones(width), torch.zeros(width)])
        self.residual_mix_2D = self.parameter("residual_mix_2D", mix, Role.SCALAR)

    def forward(self, x_BTD: Tensor, x0_BTD: Tensor, stream: Stream) -> Tensor:
        mix_2D = self.residual_mix_2D.to(x_BTD.dtype)
        x_BTD = mix_2D[0] * x_BTD + mix_2D[1] * x0_BTD
        x_BTD = x_BTD + self.mixer(rms_norm(x_BTD), stream)
        return x_BTD + self.mlp(rms_norm(x_BTD))


def add_skip(x_BTD: Tensor, skip_BTD: Tensor, factor_D: Tensor) -> Tensor:
    """x + s · skip with one factor per channel."""
    return x_BTD + factor_D.to(x_BTD.dtype) * skip_BTD


class Stack(Component):
    """All blocks in order. With skips, the first half's outputs return, last first, before the second half.

    For L layers the first ⌊L/2⌋ store their output; layer ⌊L/2⌋ + i first adds s_i times the last one not
    yet used (U-Net skips); s_i is learned per channel and starts at 1.
    """

    def __init__(self, blocks: Sequence[Block], width: int, *, skips: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block.build(width, f"blocks.{i}") for i, block in enumerate(blocks))
        self.storing = len(blocks) // 2 if skips else 0
        if self.storing:
            self.skip_ND = self.parameter("skip_ND", torch.ones(self.storing, width), Role.SCALAR)
        self.merge = add_skip

    def compile_parts(self) -> None:
        """Compiles each block, and skips apart from them: inside, they would make two kinds of block."""
        for block in self.blocks:
            block.compile()
        self.merge = torch.compile(add_skip)

    @property
    def layers(self) -> list[BlockLayer]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, BlockLayer)]

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        # Views are tensor objects of their own: code called with one object twice is compiled again.
        x0_BTD = x_BTD.view_as(x_BTD)
        stored: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index >= self.storing and stored:
                x_BTD = self.merge(x_BTD.view_as(x_BTD), stored.pop(), self.skip_ND[index - self.storing])
            x_BTD = block(x_BTD, x0_BTD, stream)
            if index < self.storing:
                stored.append(x_BTD)
        return x_BTD
