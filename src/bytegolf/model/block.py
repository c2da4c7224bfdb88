"""One layer: a sequence mixer and a channel mixer around the residual stream.

Shapes: B rows, T tokens, D width.
"""

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
    """One layer: a sequence mixer, then a channel mixer, each added to the residual stream.

    parallel: both read the layer's input, so the channel mixer does not see what the sequence mixer found
    (GPT-J, Wang & Komatsuzaki 2021; in the 16 MB challenge #1412).
    """

    mixer: Mixer = Attention()
    mlp: Mlp = SquaredMlp(hidden=1024)
    parallel: bool = False

    def build(
        self, width: int, key: str, *, input_share: float | None = 1.0, norm_scale: float | None = None
    ) -> "BlockLayer":
        """The module for a residual stream of `width`; `key` names its decoding memory. See `BlockLayer`."""
        return BlockLayer(self, width, key, input_share=input_share, norm_scale=norm_scale)


class Layer(Component):
    """The parts of a layer; how they are joined is said by the classes made of it.

    m₀ x + m₁ x₀ mixes the residual stream with the normalized embedding x₀. m₀, m₁ are learned per channel
    and start at p, 1 − p, where p is `input_share`; None leaves x as it is. Normalizations are followed by
    `norm_scale`, a constant. The learned factor per channel of what is added belongs to the last projection
    of mixer and mlp.
    """

    norm_scale: Tensor | None

    def __init__(
        self, spec: Block, width: int, key: str, *, input_share: float | None, norm_scale: float | None
    ) -> None:
        super().__init__()
        self.mixer: AttentionLayer = spec.mixer.build(width, f"{key}.mixer")
        self.mlp: nn.Module = spec.mlp.build(width)
        self.mixes = input_share is not None
        if input_share is not None:
            mix = torch.full((2, width), input_share)
            mix[1] = 1.0 - input_share
            self.residual_mix_2D = self.parameter("residual_mix_2D", mix, Role.SCALAR)
        # A tensor, not a number, which would give each layer compiled code of its own.
        scale = None if norm_scale is None else torch.tensor(norm_scale)
        self.register_buffer("norm_scale", scale, persistent=False)

    def mixed(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        """m₀ x + m₁ x₀, or x."""
        if not self.mixes:
            return x_BTD
        mix_2D = self.residual_mix_2D.to(x_BTD.dtype)
        return mix_2D[0] * x_BTD + mix_2D[1] * x0_BTD

    def normalized(self, x_BTD: Tensor) -> Tensor:
        """c norm(x)."""
        return rms_norm(x_BTD) if self.norm_scale is None else self.norm_scale * rms_norm(x_BTD)


class BlockLayer(Layer):
    """x ← m₀ x + m₁ x₀;  x ← x + mixer(c norm(x));  x ← x + mlp(c norm(x)).

    Parallel: x ← x + mixer(c norm(x)) + mlp(c norm(x)).
    """

    def __init__(
        self, spec: Block, width: int, key: str, *, input_share: float | None, norm_scale: float | None
    ) -> None:
        super().__init__(spec, width, key, input_share=input_share, norm_scale=norm_scale)
        self.parallel = spec.parallel

    def forward(self, x_BTD: Tensor, x0_BTD: Tensor, stream: Stream) -> Tensor:
        x_BTD = self.mixed(x_BTD, x0_BTD)
        read_BTD = self.normalized(x_BTD)
        y_BTD = x_BTD + self.mixer(read_BTD, stream, x_BTD)
        return y_BTD + self.mlp(read_BTD if self.parallel else self.normalized(y_BTD))
