"""Which optimizer treats which role: the one table."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bytegolf.model.roles import LOOKUP_ROLES, MATRIX_ROLES, Role, parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.training.adam import Adam, AdamOptimizer
from bytegolf.training.muon import Muon, MuonOptimizer
from bytegolf.training.optimizer import Optimizer
from bytegolf.training.ranks import PendingSum, Ranks
from bytegolf.training.sharded_muon import ShardedMuonOptimizer


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
    """All optimizers of a model, stepped together at one multiple of their learning rates.

    After a backward pass: `reduce_gradients`, `step`, `gradient_norm` for whoever wants to know, and
    `drop_gradients`.
    """

    def __init__(
        self, model: LanguageModel, spec: Optimizers, ranks: Ranks, *, precision: torch.dtype
    ) -> None:
        """`precision`: in which Muon orthogonalizes."""
        self.ranks = ranks
        groups: dict[Muon | Adam, list[torch.nn.Parameter]] = {}
        parameters = dict(model.named_parameters())
        for name, role in parameter_roles(model).items():
            groups.setdefault(spec.treatment(role), []).append(parameters[name])
        self.optimizers: list[Optimizer] = []
        self._treatments = list(groups)
        for treatment, members in groups.items():
            self.optimizers.append(_optimizer(treatment, members, ranks, precision))
        self._sharded = [o for o in self.optimizers if isinstance(o, ShardedMuonOptimizer)]
        elsewhere = {id(p) for o in self._sharded for p in o.parameters}
        #: What every rank needs the whole gradient of.
        self._replicated = [p for p in parameters.values() if id(p) not in elsewhere]
        self._parameters = list(parameters.values())
        self._arriving = PendingSum([])
        self._norm: Tensor | None = None

    def drop_gradients(self) -> None:
        """Leaves every parameter without a gradient, without a walk through the model's modules."""
        for parameter in self._parameters:
            parameter.grad = None

    def reduce_gradients(self, beside: Tensor, clip: float | None) -> None:
        """Sums the gradients over all ranks, and the tensor `beside` with them, and bounds their norm.

        `clip`: bound of the norm of all summed gradients together; None leaves them. What Muon shares out
        is still on its way afterwards, `beside` too: it is complete after `step`.
        """
        self._norm = None
        for optimizer in self._sharded:
            optimizer.start_reduction()
        gradients = [p.grad for p in self._replicated if p.grad is not None]
        self._arriving = self.ranks.start_sum([*gradients, beside])
        if clip is not None:
            self._norm = self.gradient_norm()
            torch.nn.utils.clip_grads_with_norm_(self._replicated, clip, self._norm)
            factor = (clip / (self._norm + 1e-6)).clamp(max=1.0)
            for optimizer in self._sharded:
                optimizer.scale_gradients(factor)

    def gradient_norm(self) -> Tensor:
        """The norm of all summed gradients together, before clipping. Waits until they are here."""
        if self._norm is not None:
            return self._norm
        self._arriving.wait()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._replicated if p.grad is not None])
        if self._sharded:
            squares = torch.stack([optimizer.square_sum() for optimizer in self._sharded]).sum()
            self.ranks.sum_([squares])
            norm = (norm.square() + squares).sqrt()
        return norm

    def step(self, multiplier: float, *, progress: float = 0.0) -> None:
        """One update of every parameter at `multiplier` times the learning rates.

        `progress`: the used share of the budget, which weight decay can depend on.
        """
        for optimizer, treatment in zip(self.optimizers, self._treatments, strict=True):
            optimizer.settings["lr"] = treatment.learning_rate * multiplier
            if isinstance(treatment, Muon):
                optimizer.settings["weight_decay"] = treatment.decay_at(progress)
        for optimizer in self._sharded:
            optimizer.begin_step()
        self._arriving.wait()
        for optimizer in self.optimizers:
            if not isinstance(optimizer, ShardedMuonOptimizer):
                optimizer.step()
        for optimizer in self._sharded:
            optimizer.finish_step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` needs, the same on every rank and for any number of them.

        All ranks must call it, because each may hold a part.
        """
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _optimizer(
    treatment: Muon | Adam, members: list[torch.nn.Parameter], ranks: Ranks, precision: torch.dtype
) -> Optimizer:
    if isinstance(treatment, Muon):
        kind = ShardedMuonOptimizer if treatment.sharded and ranks.world > 1 else MuonOptimizer
        return kind(members, treatment, ranks, precision)
    return AdamOptimizer(members, treatment)
