"""AdamW, for everything but matrices."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.adamw import adamw

from bytegolf.errors import RecipeError
from bytegolf.training.optimizer import Optimizer


@dataclass(frozen=True)
class Adam:
    """Settings of AdamW (Loshchilov & Hutter 2019): decay is decoupled, scaled by the learning rate."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise RecipeError(f"learning_rate={self.learning_rate}; give a positive number")
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise RecipeError(f"{name}={getattr(self, name)}; 0 ≤ {name} < 1 is needed")
        for name in ("epsilon", "weight_decay"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name}={getattr(self, name)}; give 0 or more")


class AdamOptimizer(Optimizer):
    """For each parameter W with gradient G, in its t-th step, with learning rate η:

    m ← β₁ m + (1 − β₁) G;  v ← β₂ v + (1 − β₂) G²;
    W ← (1 − η · decay) W − η (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε), in one kernel over all parameters.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], spec: Adam) -> None:
        super().__init__(parameters, {"lr": spec.learning_rate, "weight_decay": spec.weight_decay})
        self.spec = spec

    @torch.no_grad()
    def step(self) -> None:
        """One update from the parameters' gradients; a parameter without one stays as it is."""
        moved = [parameter for parameter in self.parameters if parameter.grad is not None]
        for parameter in moved:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter) for _ in range(2))
        if not moved:
            return
        names = ("exp_avg", "exp_avg_sq", "step")
        means, squares, steps = ([self.state[p][name] for p in moved] for name in names)
        adamw(
            list(moved),
            [parameter.grad for parameter in moved if parameter.grad is not None],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self.spec.beta1,
            beta2=self.spec.beta2,
            lr=self.settings["lr"],
            weight_decay=self.settings["weight_decay"],
            eps=self.spec.epsilon,
            maximize=False,
        )
