"""Low-rank additions to weight matrices, one for each row of a batch.

Shapes: B rows, T tokens, I inputs, O outputs, R rank.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.linear import Linear
from bytegolf.model.roles import Component, Role
from bytegolf.model.spec import LanguageModel


class RowLowRank:
    """y_bt = s x_bt A_b B_b: a pair of factors for each row, A_b the same for all at first and B_b zero.

    A starts uniform in ±1/sqrt(inputs) (Hu et al. 2021 up to the distribution; golf challenge, LoRA entry of
    2026-03-17). With one start for all rows, what a row computes does not depend on its place in the batch.
    s is `scale`. A matrix that a loop uses several times in one pass of the network has `turns` pairs, taken
    in turn, or one for all of them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rank: int,
        generator: torch.Generator,
        *,
        scale: float = 1.0,
        turns: int = 1,
    ) -> None:
        bound = inputs**-0.5
        self._starts_IR = [
            torch.empty(inputs, rank).uniform_(-bound, bound, generator=generator) for _ in range(turns)
        ]
        self._outputs, self._scale = outputs, scale
        self._factors: list[Tensor] = []
        self._turn = 0

    @property
    def factors(self) -> int:
        """How many tensors it learns: A and B of each turn."""
        return 2 * len(self._starts_IR)

    @property
    def entries(self) -> int:
        """Numbers that one row learns."""
        inputs, rank = self._starts_IR[0].shape
        return len(self._starts_IR) * rank * (inputs + self._outputs)

    def fresh(self, rows: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Factors for `rows` rows as they start: A (B, I, R) and B (B, R, O) of each turn."""
        factors = []
        for start_IR in self._starts_IR:
            inputs, rank = start_IR.shape
            for shape in ((rows, inputs, rank), (rows, rank, self._outputs)):
                factors.append(torch.empty(shape, device=device, dtype=dtype))
        self.restart(factors)
        return factors

    @torch.no_grad()
    def restart(self, factors: list[Tensor]) -> None:
        """Puts factors back to where they start, in place."""
        for start_IR, a_BIR, b_BRO in zip(self._starts_IR, factors[::2], factors[1::2], strict=True):
            a_BIR.copy_(start_IR)
            b_BRO.zero_()

    def use(self, factors: list[Tensor]) -> None:
        """Acts with these factors, ordered as `fresh` gives them."""
        self._factors, self._turn = factors, 0

    def start_from(self, factors: list[Tensor]) -> None:
        """From now on A starts where it is, on average over the rows of `factors`."""
        self._starts_IR = [a_BIR.mean(dim=0) for a_BIR in factors[::2]]

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, I) or (B · T, I) of all rows."""
        pair = 2 * self._turn
        self._turn = (self._turn + 1) % len(self._starts_IR)
        a_BIR, b_BRO = (factor.to(x.dtype) for factor in self._factors[pair : pair + 2])
        h_BTR = x.reshape(len(a_BIR), -1, x.shape[-1]) @ a_BIR
        if self._scale != 1.0:
            h_BTR = self._scale * h_BTR
        return (h_BTR @ b_BRO).reshape(*x.shape[:-1], self._outputs)


def shared_out(
    adapters: Sequence[RowLowRank], factors: Sequence[Tensor]
) -> Iterator[tuple[RowLowRank, list[Tensor]]]:
    """Each adapter with its own of all their factors, which stand in the adapters' order."""
    waiting = iter(factors)
    for adapter in adapters:
        yield adapter, list(itertools.islice(waiting, adapter.factors))


@contextmanager
def adapted(
    model: LanguageModel,
    targets: tuple[Role, ...],
    rank: int,
    seed: int,
    *,
    scale: float = 1.0,
    per_pass: bool = False,
) -> Iterator[list[RowLowRank]]:
    """The model with an adapter in the slot of every matrix with one of these roles; HEAD is its output.

    With `per_pass` a matrix has a pair of factors for each time that a pass of the network uses it. The slots
    are empty again at the end. Raises `RecipeError` for a role that no matrix of the model has.
    """
    slots = [
        module
        for module in model.modules()
        if isinstance(module, Linear) and _role(module) in targets and _role(module) != Role.HEAD
    ]
    missing = set(targets) - {_role(module) for module in slots} - {Role.HEAD}
    if missing:
        named = ", ".join(role.value for role in targets if role in missing)
        raise RecipeError(f"targets names {named}, but the model has no such matrix")
    turns = _uses(model, slots) if per_pass else [1] * len(slots)
    generator = torch.Generator().manual_seed(seed)
    adapters = []
    for module, uses in zip(slots, turns, strict=True):
        outputs, inputs = module.weight.shape
        module.adapter = RowLowRank(inputs, outputs, rank, generator, scale=scale, turns=uses)
        adapters.append(module.adapter)
    if Role.HEAD in targets:
        head = RowLowRank(model.spec.width, model.spec.vocabulary, rank, generator, scale=scale)
        model.head_adapter = head
        adapters.append(head)
    try:
        yield adapters
    finally:
        for module in slots:
            module.adapter = None
        model.head_adapter = None


class _Count:
    """An adapter that adds nothing and counts how often it is asked."""

    def __init__(self, outputs: int) -> None:
        self._outputs, self.uses = outputs, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.uses += 1
        return x.new_zeros(*x.shape[:-1], self._outputs)


@torch.no_grad()
def _uses(model: LanguageModel, slots: list[Linear]) -> list[int]:
    """How often one pass of the network, head included, uses each of these matrices."""
    counts = [_Count(module.weight.shape[0]) for module in slots]
    for module, count in zip(slots, counts, strict=True):
        module.adapter = count
    try:
        ids_11 = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model.log_probabilities(ids_11, torch.ones(1, 1, dtype=torch.bool))
    finally:
        for module in slots:
            module.adapter = None
    return [count.uses for count in counts]


def _role(module: Component) -> Role:
    return module.roles["weight"]
