"""The order of layers: blocks, loops over them, U-Net skips, and two lanes at the end.

Shapes: B rows, T tokens, D width, N skips.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from bytegolf.model.block import Block, Layer
from bytegolf.model.injection import ParcaeLayer
from bytegolf.model.lanes import LaneLayer, Lanes, joined
from bytegolf.model.loop import Loop, layer_order
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

#: Whether the first half's outputs return in the second: added, blended by a learned gate, or not at all.
Skips = bool | Literal["gated"]

#: What layers read at the start: their input alone, or early layers mostly the embedded input; "none" never
#: mixes the two.
ResidualMix = Literal["input", "phase", "none"]


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


def first_share(residual_mix: ResidualMix, layer: int, layers: int) -> float | None:
    """What a layer starts to read of its input; None where nothing is mixed with it."""
    match residual_mix:
        case "input":
            return 1.0
        case "phase":
            return phase_share(layer, layers)
        case "none":
            return None


class Stack(Component):
    """All blocks in order. With skips, the first half's outputs return, last first, before the second half.

    `order` holds the layer that runs at each of n places; with a loop some run more than once. Of the first
    ⌊n/2⌋ places the last N store their output; place ⌊n/2⌋ + i first merges the last one not yet used (U-Net
    skips) with the factor s_i, learned per channel and starting at 1, and where `skips` is "gated" the gate
    γ_i, starting at 0. There are as many s as an order with the loop's passes of training has skips: one with
    fewer passes uses the first of them, and with more the last places of all merge nothing.

    `run_passes` changes the order; a new stack has that of scoring. `scaled_norms`: layer l, in every pass,
    has c = 1/√(l + 1) after its normalizations. With `lanes` the residual stream splits in two before layer
    `lanes.start`, of which the first takes the skips that come from there on.
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
        lanes: Lanes | None = None,
    ) -> None:
        super().__init__()
        self._loop, self._lanes = loop, lanes
        self._first_with_lanes = len(blocks) if lanes is None else lanes.start
        self.blocks = nn.ModuleList()
        for i, block in enumerate(blocks):
            share = first_share(residual_mix, i, len(blocks))
            scale = (i + 1) ** -0.5 if scaled_norms else None
            key = f"blocks.{i}"
            if lanes is None or i < lanes.start:
                layer = block.build(width, key, input_share=share, norm_scale=scale)
            else:
                layer = LaneLayer(block, lanes, width, key, input_share=share, norm_scale=scale)
            self.blocks.append(layer)
        count = len(layer_order(len(blocks), loop)) // 2 if skips else 0
        if count:
            self.skip_ND = self.parameter("skip_ND", torch.ones(count, width), Role.SCALAR)
        self.gated = skips == "gated" and count > 0
        if self.gated:
            self.gate_ND = self.parameter("gate_ND", torch.zeros(count, width), Role.SCALAR)
        self.merge: Callable[..., Tensor] = blend_skip if self.gated else add_skip
        self._most_skips = count
        self.injection: ParcaeLayer | None = None
        if loop is not None and loop.injection is not None:
            self.injection = loop.injection.build(width)
        self._compiled = False
        self._first_looped = None if loop is None else loop.first
        #: How often the loop's layers run outside training.
        self.scored_passes = 1 if loop is None else loop.scored_passes
        self.run_passes(self.scored_passes)

    def run_passes(self, passes: int) -> None:
        """From now on the loop's layers run so often, one pass after the other."""
        assert passes == 1 or self._loop is not None, "passes of a network without a loop"
        self.passes = passes
        self.order = layer_order(len(self.blocks), self._loop, passes)
        self.turns = tuple(self.order[:place].count(layer) for place, layer in enumerate(self.order))
        self.storing = len(self.order) // 2 if self._most_skips else 0
        #: How many of the places that could store do: a place that nobody reads must not keep memory.
        self.skips = min(self.storing, self._most_skips)

    @contextmanager
    def running(self, passes: int) -> Iterator[None]:
        """The loop's layers run so often for as long as this lasts."""
        before = self.passes
        self.run_passes(passes)
        try:
            yield
        finally:
            self.run_passes(before)

    def compile_parts(self) -> None:
        """Compiles each block, and skips apart from them: inside, they would make two kinds of block."""
        # Blocks share one function, of which torch keeps eight forms and then gives up compiling: too few
        # for a network whose layers differ.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        self._compiled = True
        for block in self.blocks:
            block.compile()
        self.merge = torch.compile(self.merge)
        if self.injection is not None:
            self.injection.compile()

    @property
    def layers(self) -> list[Layer]:
        """The blocks, first to last, each once."""
        return [block for block in self.blocks if isinstance(block, Layer)]

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        if self._compiled and stream.segments is not None:
            stream.segments.of_any_number()
        # Views are tensor objects of their own: code called with one object twice is compiled again.
        x0_BTD = x_BTD.view_as(x_BTD)
        stored: list[Tensor] = []
        lane_BTD: Tensor | None = None
        for place, (layer, turn) in enumerate(zip(self.order, self.turns, strict=True)):
            if turn and self.injection is not None and layer == self._first_looped:
                x_BTD = self.injection.reentered(x_BTD, x0_BTD, turn)
            if lane_BTD is None and layer >= self._first_with_lanes:
                lane_BTD = x_BTD.view_as(x_BTD)
            if place >= self.storing and stored:
                factors = self._skip_factors(place - self.storing)
                x_BTD = self.merge(x_BTD.view_as(x_BTD), stored.pop(), *factors)
            if stream.memory is not None:
                stream.memory.turn = turn
            if lane_BTD is None:
                x_BTD = self.blocks[layer](x_BTD, x0_BTD, stream)
            else:
                x_BTD, lane_BTD = self.blocks[layer](x_BTD, lane_BTD, x0_BTD, stream)
            if self.storing - self.skips <= place < self.storing:
                stored.append(x_BTD)
        if stream.memory is not None:
            stream.memory.turn = 0
        if lane_BTD is None or self._lanes is None:
            return x_BTD
        return joined(x_BTD, lane_BTD, self._lanes.output)

    def _skip_factors(self, number: int) -> tuple[Tensor, ...]:
        if self.gated:
            return self.skip_ND[number], self.gate_ND[number]
        return (self.skip_ND[number],)
