"""AdamW over factors whose rows learn apart, and not all of them to the end.

Shapes: B rows; the rest of a factor is its own affair.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class RowAdamW:
    """AdamW (Loshchilov & Hutter 2019) that moves the first rows of each factor only, in place.

    Documents that are done lie last; they keep what they ended with, weight decay included, and cost nothing.
    """

    def __init__(
        self,
        factors: Sequence[Tensor],
        *,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
    ) -> None:
        self.factors = list(factors)
        self._settings = {"lr": learning_rate, "beta1": beta1, "beta2": beta2, "eps": epsilon}
        self._weight_decay = weight_decay
        self._means = [torch.zeros_like(factor) for factor in factors]
        self._squares = [torch.zeros_like(factor) for factor in factors]
        # One kernel over all factors where there is one: a step otherwise reads them a dozen times.
        self._fused = factors[0].is_cuda
        device = factors[0].device if self._fused else torch.device("cpu")
        self._steps = [torch.zeros((), device=device) for _ in factors]

    @torch.no_grad()
    def restart(self) -> None:
        """Forgets all gradients, in place; the factors stay."""
        for tensor in (*self._means, *self._squares, *self._steps):
            tensor.zero_()

    def leaves(self, rows: int) -> list[Tensor]:
        """The factors' first `rows` rows, in the same memory, that gather gradients."""
        return [factor[:rows].requires_grad_() for factor in self.factors]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], rows: int) -> None:
        """One step of the first `rows` rows. gradients: of all rows of the leaves; None moves nothing."""
        moved = [number for number, gradient in enumerate(gradients) if gradient is not None]
        adamw(
            [self.factors[number][:rows] for number in moved],
            [gradient[:rows] for gradient in gradients if gradient is not None],
            [self._means[number][:rows] for number in moved],
            [self._squares[number][:rows] for number in moved],
            [],
            [self._steps[number] for number in moved],
            foreach=False if not self._fused else None,
            fused=self._fused,
            amsgrad=False,
            weight_decay=self._weight_decay,
            maximize=False,
            **self._settings,
        )
