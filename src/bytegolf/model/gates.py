"""Output gates of attention: each token decides how much of what each head read it hands on.

Shapes: B rows, T tokens, H query heads, I inputs of the gate, W the first channels of what it reads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.linear import Linear
from bytegolf.model.roles import Role

#: What a gate reads: the mixer's normalized input, the residual before that normalization, or the query
#: projection before it is normalized and rotated, all heads side by side.
Reads = Literal["input", "residual", "query"]


def _check_channels(channels: int) -> None:
    if channels < 1:
        raise RecipeError(f"channels={channels} of an attention gate; give how many it reads, such as 12")


@dataclass(frozen=True)
class OutGate:
    """2 σ(W u[:channels]), one factor a head, 1 at the start (16 MB challenge, entry #1667).

    reads: what u is. Entry #1667 and the record #1855 gate by the normalized "input" or the "query", entries
    #1693 and #1728 by the "residual".
    """

    channels: int = 12
    reads: Reads = "input"

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def build(self, width: int, heads: int, query_width: int) -> "HeadGate":
        """The module for a residual stream of `width` and `heads` heads, `query_width` channels in all."""
        available = query_width if self.reads == "query" else width
        return HeadGate(self.channels, available, heads, self.reads, most=2.0)


@dataclass(frozen=True)
class FullGate:
    """σ(W x), one factor a head from the whole normalized input, near ½ at the start.

    Qiu et al. 2025 (arXiv 2505.06708), one number a head; 16 MB challenge, entry #1736. deviation: W starts
    normal with it, 0.005 in that entry's run.
    """

    deviation: float = 0.01

    def __post_init__(self) -> None:
        if self.deviation < 0:
            raise RecipeError(f"deviation={self.deviation} of an attention gate; give 0 or more")

    def build(self, width: int, heads: int, query_width: int) -> "HeadGate":
        """The module for a residual stream of `width` and `heads` heads."""
        return HeadGate(width, width, heads, "input", deviation=self.deviation)


@dataclass(frozen=True)
class SparseGate:
    """σ(scale · W x[:channels]), one factor a head, ½ at the start (16 MB challenge, entry #1787).

    x is the normalized input. scale: 1 there and in entry #2143, 0.5 in the record #1855.
    """

    channels: int = 12
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        if self.scale <= 0:
            raise RecipeError(f"scale={self.scale} of an attention gate; give a positive number, 0.5 or 1")

    def build(self, width: int, heads: int, query_width: int) -> "HeadGate":
        """The module for a residual stream of `width` and `heads` heads."""
        return HeadGate(self.channels, width, heads, "input", scale=self.scale)


Gate = OutGate | FullGate | SparseGate


class HeadGate(Linear):
    """most · σ(scale · W u[:I]) for every head: u (B, T, at least I) -> (B, T, H)."""

    def __init__(
        self,
        inputs: int,
        available: int,
        heads: int,
        reads: Reads,
        *,
        most: float = 1.0,
        scale: float = 1.0,
        deviation: float = 0.0,
    ) -> None:
        if inputs > available:
            raise RecipeError(
                f"channels={inputs} of an attention gate is more than the {available} that it reads from; "
                "give fewer"
            )
        super().__init__(inputs, heads, Role.GATE)
        self.reads, self.most, self.scale = reads, most, scale
        if not self.weight.is_meta:
            torch.nn.init.normal_(self.weight, std=deviation)

    def forward(self, x: Tensor) -> Tensor:
        # The compiler wants the slice laid out as a matrix of its own.
        read_BTI = x[..., : self.weight.shape[1]].contiguous()
        return self.most * torch.sigmoid(self.scale * super().forward(read_BTI))
