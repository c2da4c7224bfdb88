"""Smearing: each token's embedding takes something of the one before it, at the cost of one shift.

Shapes: B rows, T tokens, D width, W channels that a gate reads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.roles import Component, Role
from bytegolf.model.stream import Stream

Place = Literal["before_norm", "after_norm"]
_KEY = "smear"


@dataclass(frozen=True)
class SmearMix:
    """y_t = (1 − g) ⊙ x_t + g ⊙ x_{t−1}, with g = σ(gate) one learned number a channel.

    At a document's first token x_{t−1} is 0. start: first value of every gate. place: before or after the
    normalization of the embedded input. The 16 MB challenge's first form is start −3 (g = 0.047) before it,
    the second one start 0 (g = ½) after it.
    """

    start: float = 0.0
    place: Place = "after_norm"

    def build(self, width: int) -> "SmearMixLayer":
        return SmearMixLayer(self, width)


class SmearMixLayer(Component):
    def __init__(self, spec: SmearMix, width: int) -> None:
        super().__init__()
        self.gate_D = self.parameter("gate_D", torch.full((width,), spec.start), Role.SCALAR)

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        share_D = torch.sigmoid(self.gate_D).to(x_BTD.dtype)
        return torch.lerp(x_BTD, stream.earlier(_KEY, x_BTD), share_D)


@dataclass(frozen=True)
class SmearGate:
    """y_t = x_t + λ σ(w · x_t[:W]) x_{t−1}: each token decides how much of the one before it takes.

    From KellerJordan/modded-nanogpt; golf challenge #1667. λ and w start at zero, so y = x; W is `channels`.
    Nothing comes from another document (#1851). place: before or after the normalization of the embedded
    input.
    """

    channels: int = 12
    place: Place = "before_norm"

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise RecipeError(f"channels={self.channels}; give the number of channels that the gate reads")

    def build(self, width: int) -> "SmearGateLayer":
        return SmearGateLayer(self, width)


class SmearGateLayer(Component):
    def __init__(self, spec: SmearGate, width: int) -> None:
        super().__init__()
        if spec.channels > width:
            raise RecipeError(
                f"channels={spec.channels} of a smear gate is more than width={width}; give fewer"
            )
        self.gate_W = self.parameter("gate_W", torch.zeros(spec.channels), Role.SCALAR)
        self.factor_1 = self.parameter("factor_1", torch.zeros(1), Role.SCALAR)

    def forward(self, x_BTD: Tensor, stream: Stream) -> Tensor:
        read_BTW = x_BTD[..., : self.gate_W.shape[0]]
        logit_BT1 = (read_BTW * self.gate_W.to(x_BTD.dtype)).sum(-1, keepdim=True)
        share_BT1 = self.factor_1.to(x_BTD.dtype) * torch.sigmoid(logit_BT1)
        return torch.addcmul(x_BTD, share_BT1, stream.earlier(_KEY, x_BTD))


Smear = SmearMix | SmearGate
