"""Parallel Muon: each rank sums, remembers and orthogonalizes only its own share of the matrices.

The arrangement of the 16 MB challenge's PR 399: gradients of one shape travel as one reduce-scatter, largest
first; while a shape is orthogonalized, the gradients of the next ones and the results of the one before are
on their way. Unlike there, momentum is part of the saved state and the gradient norm is that of the summed
gradients.

Shapes: M matrices of R rows and C columns, of which each rank owns S = ⌈M / world⌉; the last ranks' share is
filled up with zeros, which stay zeros.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bytegolf.training.muon import Muon, MuonOptimizer, orthogonal_direction
from bytegolf.training.ranks import Pending, Ranks


class _Shape:
    """The matrices of one shape, which of them this rank owns, and their gradients on the way."""

    def __init__(self, parameters: list[torch.nn.Parameter], ranks: Ranks) -> None:
        self.parameters, self.ranks = parameters, ranks
        self.share = -(-len(parameters) // ranks.world)
        self.own = parameters[ranks.rank * self.share : (ranks.rank + 1) * self.share]
        self._arriving: Pending | None = None

    @property
    def elements(self) -> int:
        return len(self.parameters) * self.parameters[0].numel()

    def filled(self, matrices: list[Tensor], count: int) -> Tensor:
        """The matrices and as many zero ones as are missing: (count, R, C)."""
        zero = torch.zeros_like(self.parameters[0])
        return torch.stack([*matrices, *[zero] * (count - len(matrices))])

    def start(self) -> None:
        """Sends every rank the gradients of its own matrices; where there is none, zeros."""
        zero = torch.zeros_like(self.parameters[0])
        gradients = [zero if p.grad is None else p.grad for p in self.parameters]
        self._arriving = self.ranks.start_sum_of_part(self.filled(gradients, self.share * self.ranks.world))

    def gradients(self) -> Tensor:
        """The summed gradients of this rank's matrices (S, R, C), which stay until the next `start`."""
        assert self._arriving is not None, "gradients that were never sent"
        summed_SRC = self._arriving.wait()
        # Only the result is kept: what was sent is world times as large.
        self._arriving = Pending(summed_SRC)
        return summed_SRC


class ShardedMuonOptimizer(MuonOptimizer):
    """Muon over several ranks, each with its own share of gradients and momentum.

    A step is `start_reduction`, then `begin_step`, then `finish_step`; between the last two is room for other
    work while the last results arrive. All ranks must call every method that exchanges something.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], spec: Muon, ranks: Ranks, dtype: torch.dtype
    ) -> None:
        super().__init__(parameters, spec, ranks, dtype)
        by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for parameter in self.parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        shapes = [_Shape(members, ranks) for members in by_shape.values()]
        self._shapes = sorted(shapes, key=lambda shape: -shape.elements)
        self._gathering: list[tuple[_Shape, Pending]] = []
        self._fill_momentum()

    @torch.no_grad()
    def start_reduction(self) -> None:
        """Sends the gradients on their way, the largest shape first."""
        for shape in self._shapes:
            shape.start()

    @torch.no_grad()
    def square_sum(self) -> Tensor:
        """Σ g² over this rank's summed gradients; waits until all are here."""
        norms = [torch.linalg.vector_norm(shape.gradients()) for shape in self._shapes]
        return torch.stack(norms).square().sum()

    @torch.no_grad()
    def scale_gradients(self, factor: Tensor) -> None:
        """Multiplies this rank's summed gradients by a number; waits until all are here."""
        torch._foreach_mul_([shape.gradients() for shape in self._shapes], factor)

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients of `start_reduction`."""
        self.begin_step()
        self.finish_step()

    @torch.no_grad()
    def begin_step(self) -> None:
        """Updates all matrices but those of the smallest shape, whose results are still arriving."""
        momentum = self._next_momentum()
        for shape in self._shapes:
            u_SRC = self._nesterov(shape, momentum)
            # In the precision they were computed in: half the traffic, the same values.
            o_SRC = orthogonal_direction(u_SRC, self.spec, self.dtype).to(self.dtype)
            gathering = self.ranks.start_gather(o_SRC)
            self.finish_step()
            self._gathering.append((shape, gathering))

    @torch.no_grad()
    def finish_step(self) -> None:
        """Applies the results that `begin_step` left on their way."""
        for shape, gathering in self._gathering:
            o_MRC = gathering.wait().to(shape.parameters[0].dtype)
            moved = [
                (p, o_RC) for p, o_RC in zip(shape.parameters, o_MRC, strict=False) if p.grad is not None
            ]
            if moved:
                parameters, directions = (list(part) for part in zip(*moved, strict=True))
                self._apply(parameters, directions)
        self._gathering = []

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """The state that the plain form has: the momentum of all matrices, collected from all ranks."""
        momenta: dict[torch.nn.Parameter, Tensor] = {}
        for shape in self._shapes:
            own_SRC = shape.filled([self.state[p]["momentum"] for p in shape.own], shape.share)
            whole_MRC = self.ranks.gather(own_SRC)
            momenta.update(zip(shape.parameters, whole_MRC, strict=False))
        # Second moments are those of results that all ranks have.
        whole = {p: {k: v for k, v in self.state[p].items() if k != "momentum"} for p in self.parameters}
        state = {i: {"momentum": momenta[p], **whole[p]} for i, p in enumerate(self.parameters)}
        return {**super().state_dict(), "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes this rank's share of a state saved by either form, on any number of ranks."""
        own = {id(parameter) for shape in self._shapes for parameter in shape.own}
        kept = {
            index: {k: v for k, v in values.items() if k != "momentum" or id(self.parameters[index]) in own}
            for index, values in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": kept})
        self._fill_momentum()

    def _fill_momentum(self) -> None:
        """Momentum of zero for those of this rank's matrices that have none yet."""
        for shape in self._shapes:
            for parameter in shape.own:
                self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))

    def _nesterov(self, shape: _Shape, momentum: float) -> Tensor:
        """Advances the momentum of this rank's matrices of one shape: G + μ B, (S, R, C)."""
        g_SRC = shape.gradients()
        u_SRC = g_SRC.clone()
        moved = [index for index, parameter in enumerate(shape.own) if parameter.grad is not None]
        if moved:
            buffers = [self.state[shape.own[index]]["momentum"] for index in moved]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, [g_SRC[index] for index in moved])
            torch._foreach_add_([u_SRC[index] for index in moved], buffers, alpha=momentum)
        return u_SRC
