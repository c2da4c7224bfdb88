"""Low-rank additions to weight matrices, one for each row of a batch.

Shapes: B rows, T tokens, I inputs, O outputs, R rank.
"""

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.linear import Linear
from bytegolf.model.roles import Component, Role
from bytegolf.model.spec import LanguageModel


class RowLowRank:
    """y_bt = x_bt A_b B_b: a pair of factors for each row, A_b the same for all at first and B_b zero.

    A starts uniform in ±1/sqrt(inputs) (Hu et al. 2021 up to the distribution; golf challenge, LoRA entry of
    2026-03-17). With one start for all rows, what a row computes does not depend on its place in the batch.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, generator: torch.Generator) -> None:
        bound = inputs**-0.5
        self._start_IR = torch.empty(inputs, rank).uniform_(-bound, bound, generator=generator)
        self._outputs = outputs
        self.rows = 0

    def restart(self, rows: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Factors for `rows` rows as they start; what is to learn."""
        self.rows = rows
        rank = self._start_IR.shape[1]
        start_IR = self._start_IR.to(device, dtype)
        self._a_BIR = start_IR.repeat(rows, 1, 1).requires_grad_()
        self._b_BRO = torch.zeros(rows, rank, self._outputs, device=device, dtype=dtype, requires_grad=True)
        return [self._a_BIR, self._b_BRO]

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, I) or (B · T, I) of the first `rows` rows."""
        a_BIR, b_BRO = (factor[: self.rows].to(x.dtype) for factor in (self._a_BIR, self._b_BRO))
        y_BTO = x.reshape(self.rows, -1, x.shape[-1]) @ a_BIR @ b_BRO
        return y_BTO.reshape(*x.shape[:-1], self._outputs)


def attach(model: LanguageModel, targets: tuple[Role, ...], rank: int, seed: int) -> list[RowLowRank]:
    """Puts an adapter into the slot of every matrix with one of these roles; HEAD is the model's output.

    Raises `RecipeError` for a role that no matrix of the model has.
    """
    generator = torch.Generator().manual_seed(seed)
    made, found = [], set()
    for module in model.modules():
        if isinstance(module, Linear) and _role(module) in targets and _role(module) != Role.HEAD:
            outputs, inputs = module.weight.shape
            module.adapter = RowLowRank(inputs, outputs, rank, generator)
            made.append(module.adapter)
            found.add(_role(module))
    if Role.HEAD in targets:
        head = RowLowRank(model.spec.width, model.spec.vocabulary, rank, generator)
        model.head_adapter = head
        made.append(head)
        found.add(Role.HEAD)
    missing = [role.value for role in targets if role not in found]
    if missing:
        raise RecipeError(f"targets names {', '.join(missing)}, but the model has no such matrix")
    return made


def _role(module: Component) -> Role:
    return module.roles["weight"]
