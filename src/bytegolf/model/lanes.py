"""Two residual streams in the last layers: one that attention reads, one that MLPs read; both write to both.

Shapes: B rows, T tokens, D width. Lane 0 is attention's, lane 1 the MLP's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.block import Block, Layer
from bytegolf.model.roles import Role
from bytegolf.model.stream import Stream

#: What the network makes of two lanes in the end.
LaneOutput = Literal["mean", "attention", "mlp"]


@dataclass(frozen=True)
class Lanes:
    """Two lanes from layer `start` (counted from 0) to the last (16 MB challenge: #1204, #1529, #1530).

    mlp_reads: its lane alone (#1530), or that mixed with the embedded input as attention's is ("mix", #1728).
    residual: start value of the factor by which a layer multiplies a lane. output: the mean of both lanes, or
    one of them.
    """

    start: int
    mlp_reads: Literal["lane", "mix"] = "lane"
    residual: float = 1.1
    output: LaneOutput = "mean"

    def __post_init__(self) -> None:
        if self.start < 0:
            raise RecipeError(f"lanes.start={self.start}; give the first layer with two lanes, 0 or later")


class LaneLayer(Layer):
    """a = mixer(c norm(m₀ u + m₁ x₀)),  b = mlp(c norm(v));  then both lanes take of both:

    u ← r₀ u + p₀₀ a + p₀₁ b,  v ← r₁ v + p₁₀ a + p₁₁ b. u is lane 0 and v lane 1, which where `mlp_reads` is
    "mix" is read as m₀ v + m₁ x₀. r and p are learned numbers: r starts at `residual`, p at 1.
    """

    def __init__(
        self,
        spec: Block,
        lanes: Lanes,
        width: int,
        key: str,
        *,
        input_share: float | None,
        norm_scale: float | None,
    ) -> None:
        super().__init__(spec, width, key, input_share=input_share, norm_scale=norm_scale)
        self.mlp_reads_mix = lanes.mlp_reads == "mix"
        self.residual_2 = self.parameter("residual_2", torch.full((2,), lanes.residual), Role.SCALAR)
        self.written_22 = self.parameter("written_22", torch.ones(2, 2), Role.SCALAR)

    def forward(self, u_BTD: Tensor, v_BTD: Tensor, x0_BTD: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        read_BTD = self.mixed(u_BTD, x0_BTD)
        a_BTD = self.mixer(self.normalized(read_BTD), stream, read_BTD)
        b_BTD = self.mlp(self.normalized(self.mixed(v_BTD, x0_BTD) if self.mlp_reads_mix else v_BTD))
        r_2, p_22 = self.residual_2.to(a_BTD.dtype), self.written_22.to(a_BTD.dtype)
        return (
            r_2[0] * u_BTD + p_22[0, 0] * a_BTD + p_22[0, 1] * b_BTD,
            r_2[1] * v_BTD + p_22[1, 0] * a_BTD + p_22[1, 1] * b_BTD,
        )


def joined(u_BTD: Tensor, v_BTD: Tensor, output: LaneOutput) -> Tensor:
    """What leaves the last layer."""
    match output:
        case "mean":
            return 0.5 * (u_BTD + v_BTD)
        case "attention":
            return u_BTD
        case "mlp":
            return v_BTD
