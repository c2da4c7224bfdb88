"""Which optimizer treats which role: the one table."""

from dataclasses import dataclass
from typing import Any

import torch

from bytegolf.errors import RecipeError
from bytegolf.model.roles import LOOKUP_ROLES, MATRIX_ROLES, Role, parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.training.muon import Muon, MuonOptimizer
from bytegolf.training.ranks import Ranks


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


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for each kind of role."""

    matrices: Muon = Muon()
    embedding: Adam = Adam(learning_rate=0.05)
    head: Adam = Adam(learning_rate=0.008)
    scalars: Adam = Adam(learning_rate=0.04)

    def treatment(self, role: Role) -> Muon | Adam:
        """The table: role → optimizer."""
        if role in MATRIX_ROLES:
            return self.matrices
        if role is Role.EMBEDDING or role in LOOKUP_ROLES:
            return self.embedding
        if role is Role.HEAD:
            return self.head
        return self.scalars


class OptimizerGroup:
    """All optimizers of a model, stepped together at one multiple of their learning rates."""

    def __init__(
        self, model: LanguageModel, spec: Optimizers, ranks: Ranks, *, precision: torch.dtype
    ) -> None:
        """`precision`: in which Muon orthogonalizes."""
        groups: dict[Muon | Adam, list[torch.nn.Parameter]] = {}
        parameters = dict(model.named_parameters())
        for name, role in parameter_roles(model).items():
            groups.setdefault(spec.treatment(role), []).append(parameters[name])
        self.optimizers: list[torch.optim.Optimizer] = []
        self._base_rates: list[float] = []
        for treatment, members in groups.items():
            self._base_rates.append(treatment.learning_rate)
            if isinstance(treatment, Muon):
                self.optimizers.append(MuonOptimizer(members, treatment, ranks, precision))
            else:
                self.optimizers.append(
                    torch.optim.AdamW(
                        members,
                        lr=treatment.learning_rate,
                        betas=(treatment.beta1, treatment.beta2),
                        eps=treatment.epsilon,
                        weight_decay=treatment.weight_decay,
                        fused=True,
                    )
                )

    def step(self, multiplier: float) -> None:
        """One update of every parameter at `multiplier` times the learning rates."""
        for optimizer, base in zip(self.optimizers, self._base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * multiplier
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
