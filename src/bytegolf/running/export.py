"""From a trained model to its artifact file: the grids are chosen, and the bytes counted."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytegolf.artifact.account import Account
from bytegolf.artifact.container import Contents, pack
from bytegolf.compression.compress import compress_model, role_rows
from bytegolf.compression.costs import estimate_bytes, grid_costs
from bytegolf.compression.plan import Plan, fit, is_matrix
from bytegolf.compression.pruning import SingleSteps, fewest_that_fit, prune_smallest
from bytegolf.compression.sensitivity import fisher_sensitivities
from bytegolf.compression.spec import FitBytes, FixedBits
from bytegolf.compression.storage import Stored
from bytegolf.errors import BudgetError
from bytegolf.files import atomic_write
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.shards import Prepared
from bytegolf.tree import to_json

#: Batches and rows of training text from which sensitivities are measured.
_CALIBRATION_BATCHES, _CALIBRATION_ROWS = 4, 8
#: Share of the budget left free when grids are fitted before the end of training.
_MARGIN = 0.01


@dataclass(frozen=True)
class Exported:
    """An artifact on disk. plan_rows: for the report, one row a role."""

    path: Path
    account: Account
    sha256: str
    plan: Plan
    plan_rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Packed:
    plan: Plan
    contents: Contents
    data: bytes
    account: Account

    @property
    def size(self) -> int:
        return len(self.data)


class PlanChoice:
    """The grids of a model as its recipe asks for them, for any byte budget, measured once."""

    def __init__(self, model: LanguageModel, recipe: Recipe, prepared: Prepared) -> None:
        self._spec = recipe.compression
        if isinstance(self._spec.plan, FixedBits):
            return
        roles = {name: str(role) for name, role in parameter_roles(model).items()}
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        matrices = _matrices(parameters, roles, recipe)
        sensitivities = fisher_sensitivities(model, _calibration(recipe, prepared, model.device))
        self._costs = grid_costs(matrices, roles, sensitivities, self._spec.plan.choices)
        self._fixed_bytes = _fixed_bytes(parameters, matrices, recipe, prepared)

    def plan(self, *, margin: float = 0.0) -> Plan:
        """The grid of each role: as the recipe says, or the best that fits its budget less `margin` of it.

        Raises `BudgetError` if even the coarsest choice does not fit, with what would; where the file can
        still be pruned to fit, it is the coarsest.
        """
        if isinstance(self._spec.plan, FixedBits):
            return self._spec.plan.grids()
        budget = self._spec.budget_bytes
        assert budget is not None
        fitted = fit(self._costs, budget_bytes=int(budget * (1 - margin)), fixed_bytes=self._fixed_bytes)
        if not fitted.fits and not self._spec.prune_to_fit:
            raise BudgetError(
                f"compression.budget_bytes={budget:,} is missed by {fitted.miss_bytes:,} bytes "
                f"with the coarsest grids; {fitted.remedy} (then: bytegolf compress FOLDER)"
            )
        return fitted.grids


def early_plan(model: LanguageModel, recipe: Recipe, prepared: Prepared) -> Plan:
    """The grids for quantization-aware training, a little coarser than fits: weights still move."""
    return PlanChoice(model, recipe, prepared).plan(margin=_MARGIN)


def refuse_hopeless_budget(model: LanguageModel, recipe: Recipe, prepared: Prepared) -> None:
    """Raises `BudgetError` before training if the coarsest grids cannot fit the byte budget.

    Weights are stood in for by normal ones, which a trained matrix resembles when it is coded. How far a file
    can be pruned is known only after training.
    """
    spec = recipe.compression
    if not isinstance(spec.plan, FitBytes) or spec.budget_bytes is None or spec.prune_to_fit:
        return
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    generator = torch.Generator().manual_seed(0)
    # One for each shape, which is then measured once, and nobody waits for hundreds of equal results.
    by_shape = {
        shape: torch.randn(shape, generator=generator)
        for shape in {value.shape: None for value in model.parameters()}
    }
    parameters = {name: by_shape[value.shape] for name, value in model.named_parameters()}
    matrices = _matrices(parameters, roles, recipe)
    sample = torch.randn(128, 512, generator=generator)
    coarsest = min(spec.plan.choices, key=lambda grid: estimate_bytes(grid.quantize(sample)))
    costs = grid_costs(matrices, roles, dict.fromkeys(matrices, 1.0), [coarsest])
    fixed_bytes = _fixed_bytes(parameters, matrices, recipe, prepared)
    fitted = fit(costs, budget_bytes=spec.budget_bytes, fixed_bytes=fixed_bytes)
    if not fitted.fits:
        raise BudgetError(
            f"compression.budget_bytes={spec.budget_bytes:,} is too small for this model, which needs about "
            f"{fitted.total_bytes:,} bytes with the coarsest grids; {fitted.remedy}"
        )


def export(
    model: LanguageModel,
    recipe: Recipe,
    prepared: Prepared,
    seen_plan: Plan | None,
    training: dict[str, Any],
    folder: Path,
) -> Exported:
    """Writes artifact.bg: with `seen_plan`, the grids that training saw, or with ones chosen now.

    A fitted plan that is over budget once it is really coded is fitted again with the excess taken off; with
    `prune_to_fit` either kind of plan stays, and integers are pruned. Raises `BudgetError` if nothing fits; a
    fixed plan that is too large and not to be pruned is written and said so by its size.
    """
    parameters = {name: value.detach().float().cpu() for name, value in model.named_parameters()}
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    packer = _Packer(recipe, prepared.tokenizer.to_bytes(), parameters, roles, training)
    choice = functools.cache(lambda: PlanChoice(model, recipe, prepared))
    best = _best(packer, choice, seen_plan)
    path = folder / "artifact.bg"
    atomic_write(path, best.data)
    rows = role_rows(
        parameters,
        best.contents.tensors,
        roles,
        best.plan,
        bytes_by_role=dict(best.account.parts),
        passthrough_elements=recipe.compression.passthrough_elements,
    )
    sha256 = hashlib.sha256(best.data).hexdigest()
    return Exported(path, best.account, sha256, best.plan, [asdict(row) for row in rows])


@dataclass(frozen=True)
class _Packer:
    """Makes artifacts of one trained model."""

    recipe: Recipe
    tokenizer: bytes
    parameters: dict[str, Tensor]
    roles: dict[str, str]
    training: dict[str, Any]

    def packed(self, plan: Plan) -> _Packed:
        spec = self.recipe.compression
        tensors = compress_model(
            self.parameters,
            self.roles,
            plan,
            passthrough_elements=spec.passthrough_elements,
            prune=spec.prune,
        )
        return self.coded(plan, tensors)

    def coded(self, plan: Plan, tensors: dict[str, Stored]) -> _Packed:
        contents = Contents(to_json(self.recipe), self.tokenizer, tensors, self.roles, self.training)
        return _Packed(plan, contents, *pack(contents))


def _best(packer: _Packer, choice: Callable[[], PlanChoice], seen_plan: Plan | None) -> _Packed:
    """The artifact with the plan that training saw, or a fitted one, brought within the budget."""
    spec = packer.recipe.compression
    best = packer.packed(choice().plan() if seen_plan is None else seen_plan)
    if spec.budget_bytes is None:
        return best
    if spec.prune_to_fit and best.size > spec.budget_bytes:
        return _pruned_to_fit(packer, best, spec.budget_bytes)
    if isinstance(spec.plan, FitBytes):
        # Sizes were predicted; now that one is known, the prediction's error is taken off the next.
        margin, tries = 0.0, 0
        while best.size > spec.budget_bytes or (seen_plan is None and tries == 0):
            margin += (best.size - spec.budget_bytes) / spec.budget_bytes + (0.002 if tries else 0.0)
            tries += 1
            plan = choice().plan(margin=margin)
            if plan == best.plan:
                continue
            other = packer.packed(plan)
            if best.size > spec.budget_bytes or best.size < other.size <= spec.budget_bytes:
                best = other
    return best


def _pruned_to_fit(packer: _Packer, over: _Packed, budget: int) -> _Packed:
    """The artifact with as few integers ±1 at zero as bring it to its budget."""
    steps = SingleSteps(packer.parameters, over.contents.tensors)
    without = functools.cache(lambda count: packer.coded(over.plan, steps.without(count)))
    count = fewest_that_fit(lambda n: without(n).size, len(steps), size=over.size, budget=budget)
    if count is None:
        least = without(len(steps)).size
        raise BudgetError(
            f"compression.budget_bytes={budget:,} is missed by {least - budget:,} bytes even with every "
            "integer ±1 pruned; choose coarser grids (then: bytegolf compress FOLDER)"
        )
    return without(count)


def _matrices(parameters: dict[str, Tensor], roles: dict[str, str], recipe: Recipe) -> dict[str, Tensor]:
    """Those parameters that go on grids, without the weights that are pruned before."""
    spec = recipe.compression
    return {
        name: prune_smallest(value, spec.prune)
        for name, value in parameters.items()
        if is_matrix(value, roles[name], spec.passthrough_elements)
    }


def _fixed_bytes(
    parameters: dict[str, Tensor], matrices: dict[str, Tensor], recipe: Recipe, prepared: Prepared
) -> int:
    """Bytes of everything but the matrices, from an artifact that holds just that."""
    rest = {name: value for name, value in parameters.items() if name not in matrices}
    empty = Contents(
        to_json(recipe), prepared.tokenizer.to_bytes(), dict(rest), dict.fromkeys(rest, "scalar"), {}
    )
    return pack(empty)[1].total_bytes


def _calibration(
    recipe: Recipe, prepared: Prepared, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of training text, the same for every run of a recipe."""
    spec = recipe.training
    batches = PackedBatches(
        prepared.training, prepared.tokenizer, rows=_CALIBRATION_ROWS, length=spec.length, seed=spec.seed
    )
    made = [batches.batch(step) for step in range(_CALIBRATION_BATCHES)]
    return [(b.ids_BT.to(device), b.targets_BT.to(device), b.starts_BT.to(device)) for b in made]
