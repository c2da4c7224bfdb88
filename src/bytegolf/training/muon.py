"""Muon: momentum whose matrices are replaced by the nearest semi-orthogonal one (Jordan et al. 2024).

Stands on torch and the orthogonalization kernel alone. Matrices of one shape are treated as one batch;
with several ranks each orthogonalizes its share of the batch, and all receive the whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.orthogonal import (
    POLAR_EXPRESS,
    Coefficients,
    classic,
    gram_orthogonalize,
    orthogonalize,
)
from bytegolf.training.optimizer import Optimizer
from bytegolf.training.ranks import Ranks
from bytegolf.training.schedule import Taper


@dataclass(frozen=True)
class Muon:
    """Settings of Muon.

    momentum rises linearly from momentum_start over the first momentum_steps steps. weight_decay is
    decoupled: W ← W (1 − lr · decay). coefficients, steps: which Newton-Schulz constants, how often.
    equalize_rows scales each row of the update to length 1 before orthogonalization (MuonEq-R,
    arXiv 2603.28254); with steps=3 it is NeoMuon (16 MB challenge, PR 640). sharded: each rank sums the
    gradients of its own matrices only and keeps only their momentum (see `sharded_muon.py`); a single
    process has nothing to share. gram_above: matrices at least this many times as long as wide (or as wide
    as long) are orthogonalized by way of their Gram matrices, which is less work; 2.5 in PR 1728, None for
    never. decay_taper: how weight_decay falls towards the end of the budget. cautious: only weights decay
    that the update does not pull away from zero (Chen et al. 2025, arXiv 2510.12402). second_moment: the
    share that an average over steps keeps of each neuron's mean squared update, by whose root the neuron's
    update is divided; 0.95 in NorMuon (Li et al. 2025, arXiv 2510.05491), None for not.
    """

    learning_rate: float = 0.04
    momentum: float = 0.95
    momentum_start: float = 0.85
    momentum_steps: int = 500
    weight_decay: float = 0.0
    coefficients: Literal["classic", "polar_express"] = "classic"
    equalize_rows: bool = False
    steps: int = 5
    sharded: bool = False
    gram_above: float | None = None
    decay_taper: Taper | None = None
    cautious: bool = False
    second_moment: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise RecipeError(f"learning_rate={self.learning_rate}; give a positive number")
        if not (0 <= self.momentum < 1 and 0 <= self.momentum_start < 1):
            raise RecipeError(
                f"momentum={self.momentum}, momentum_start={self.momentum_start}: 0 ≤ x < 1 is needed"
            )
        if self.momentum_steps < 0:
            raise RecipeError(f"momentum_steps={self.momentum_steps}; give 0 or more steps")
        if self.weight_decay < 0:
            raise RecipeError(f"weight_decay={self.weight_decay}; give 0 or more")
        if self.steps < 1:
            raise RecipeError(f"steps={self.steps}; give 1 or more Newton-Schulz iterations")
        if self.gram_above is not None and not self.gram_above >= 1.0:
            raise RecipeError(f"gram_above={self.gram_above}; give a ratio of 1 or more, or None for never")
        if self.second_moment is not None and not 0 <= self.second_moment < 1:
            raise RecipeError(f"second_moment={self.second_moment}; 0 ≤ x < 1 is needed, or None for not")
        if self.coefficients == "polar_express" and self.steps != len(POLAR_EXPRESS):
            raise RecipeError(
                f"steps={self.steps} with coefficients='polar_express', whose {len(POLAR_EXPRESS)} triples "
                f"only settle together; give {len(POLAR_EXPRESS)} steps, or coefficients='classic'"
            )

    @property
    def triples(self) -> Coefficients:
        """The constants of each Newton-Schulz iteration."""
        return POLAR_EXPRESS if self.coefficients == "polar_express" else classic(self.steps)

    def momentum_at(self, step: int) -> float:
        """The momentum of step `step`, counted from 0."""
        share = min(step / self.momentum_steps, 1.0) if self.momentum_steps else 1.0
        return self.momentum_start + share * (self.momentum - self.momentum_start)

    def decay_at(self, progress: float) -> float:
        """The weight decay at `progress`, the used share of the budget."""
        return self.weight_decay * (self.decay_taper.factor(progress) if self.decay_taper else 1.0)


class MuonOptimizer(Optimizer):
    """For each matrix W (R × C) with gradient G, momentum μ and learning rate η:

    B ← μ B + G;  U = G + μ B;  O = orthogonalize(U);  W ← (1 − η · decay) W − η sqrt(max(1, R/C)) · O,
    where with `cautious` only those weights decay whose sign is that of their entry of O, or either is zero.
    With `second_moment` β: v ← β v + (1 − β) mean(O²) over columns, or over rows if there are fewer of these,
    so that a neuron of an MLP has one number on either side; O / √v takes O's place, scaled to its norm.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], spec: Muon, ranks: Ranks, dtype: torch.dtype
    ) -> None:
        """`dtype`: precision of the orthogonalization. Parameters must be matrices."""
        parameters = list(parameters)
        for parameter in parameters:
            assert parameter.ndim == 2, (
                f"Muon treats matrices; this parameter has shape {tuple(parameter.shape)}"
            )
        settings = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay, "steps": 0}
        super().__init__(parameters, settings)
        self.spec, self.ranks, self.dtype = spec, ranks, dtype

    @torch.no_grad()
    def step(self) -> None:
        """One update from the parameters' gradients."""
        momentum = self._next_momentum()
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in self.parameters:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for parameters in by_shape.values():
            directions = list(self._orthogonal_update(parameters, momentum).unbind())
            self._apply(parameters, directions)

    def _next_momentum(self) -> float:
        """The momentum of this step, which is counted."""
        momentum = self.spec.momentum_at(self.settings["steps"])
        self.settings["steps"] += 1
        return momentum

    def _apply(self, parameters: list[Tensor], directions: list[Tensor]) -> None:
        """Moves parameters of one shape against their directions."""
        if self.spec.second_moment is not None:
            directions = self._normalized(parameters, directions, self.spec.second_moment)
        rate, decay = self.settings["lr"], self.settings["weight_decay"]
        apply_update(parameters, directions, rate, decay, cautious=self.spec.cautious)

    def _normalized(self, parameters: list[Tensor], directions: list[Tensor], beta: float) -> list[Tensor]:
        """The directions, neuron by neuron divided by the root of their averaged squares."""
        o_MRC = torch.stack(directions).to(parameters[0].dtype)
        rows, columns = o_MRC.shape[1:]
        squares = o_MRC.square().mean(dim=2 if rows >= columns else 1, keepdim=True)
        states = [self.state[parameter] for parameter in parameters]
        for state, square in zip(states, squares, strict=True):
            if "second_moment" not in state:
                state["second_moment"] = torch.zeros_like(square)
        moments = [state["second_moment"] for state in states]
        torch._foreach_lerp_(moments, list(squares.unbind()), 1.0 - beta)
        # That the average begins at zero is a factor for all neurons, which the norm takes out again.
        scaled_MRC = o_MRC * torch.stack(moments).clamp_min(1e-20).rsqrt()
        norms, scaled_norms = (x.norm(dim=(1, 2), keepdim=True) for x in (o_MRC, scaled_MRC))
        return list((scaled_MRC * (norms / scaled_norms.clamp_min(1e-20))).unbind())

    def _orthogonal_update(self, parameters: list[Tensor], momentum: float) -> Tensor:
        """Advances the momentum of parameters of one shape; their orthogonalized updates (M, R, C)."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        share = -(-len(parameters) // self.ranks.world)
        mine = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        updates: list[Tensor] = []
        if gradients[mine]:
            updates = list(torch._foreach_add(gradients[mine], buffers[mine], alpha=momentum))
        if missing := share - len(updates):
            # Every rank must contribute equally many matrices to the exchange.
            updates += [torch.zeros_like(gradients[0])] * missing
        o_MRC = orthogonal_direction(torch.stack(updates), self.spec, self.dtype)
        return self.ranks.gather(o_MRC)[: len(parameters)]


def orthogonal_direction(u_MRC: Tensor, spec: Muon, dtype: torch.dtype) -> Tensor:
    """The Nesterov updates of M matrices, rows equalized if asked, orthogonalized in `dtype`."""
    if spec.equalize_rows:
        u_MRC = u_MRC / u_MRC.norm(dim=-1, keepdim=True).clamp_min(1e-7)
    rows, columns = u_MRC.shape[-2:]
    long = spec.gram_above is not None and max(rows, columns) >= spec.gram_above * min(rows, columns)
    return (gram_orthogonalize if long else orthogonalize)(u_MRC, spec.triples, dtype=dtype)


def apply_update(
    parameters: list[Tensor], directions: list[Tensor], rate: float, decay: float, *, cautious: bool = False
) -> None:
    """Decays the parameters, all of one shape (R, C), and moves them against their orthogonal directions.

    `cautious`: where a parameter times its direction is negative, it does not decay.
    """
    rows, columns = parameters[0].shape
    if cautious:
        # 1 where a parameter decays and 0 elsewhere, times the parameter.
        decaying = torch._foreach_mul(parameters, directions)
        torch._foreach_sign_(decaying)
        torch._foreach_add_(decaying, 1.0)
        torch._foreach_clamp_max_(decaying, 1.0)
        torch._foreach_mul_(decaying, parameters)
        torch._foreach_add_(parameters, decaying, alpha=-rate * decay)
    else:
        torch._foreach_mul_(parameters, 1.0 - rate * decay)
    torch._foreach_add_(parameters, directions, alpha=-rate * max(1.0, rows / columns) ** 0.5)
