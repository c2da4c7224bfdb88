"""Which grids the matrices of a trained model get: as its recipe says, or the best that fit its budget."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from bytegolf.artifact.container import Contents, pack
from bytegolf.compression.compress import compress_model
from bytegolf.compression.costs import GridCosts, estimate_bytes, grid_costs, refined
from bytegolf.compression.depth import depths
from bytegolf.compression.plan import Plan, fit, is_matrix, plan_from_json, plan_to_json
from bytegolf.compression.pruning import prune_smallest
from bytegolf.compression.residual import correction_bytes
from bytegolf.compression.sensitivity import fisher_sensitivities, rounding_gains
from bytegolf.compression.spec import Compression, FitBytes, FixedBits
from bytegolf.errors import BudgetError
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.running.calibration import training_batches
from bytegolf.tokens.shards import Prepared
from bytegolf.training.ranks import Ranks
from bytegolf.tree import to_json

#: Batches and rows of training text from which sensitivities are measured.
_CALIBRATION_BATCHES, _CALIBRATION_ROWS = 4, 8
#: Share of the budget left free when grids are fitted before the end of training.
_MARGIN = 0.01


class PlanChoice:
    """The grids of a model as its recipe asks for them, for any byte budget, measured once.

    `hessians`: those by which the matrices will be rounded, where they will be.
    """

    def __init__(
        self,
        model: LanguageModel,
        recipe: Recipe,
        prepared: Prepared,
        *,
        sensitivities: Mapping[str, float] | None = None,
        hessians: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._spec = spec = recipe.compression
        if isinstance(spec.plan, FixedBits):
            return
        roles = {name: str(role) for name, role in parameter_roles(model).items()}
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        matrices = _matrices(parameters, roles, recipe)
        if sensitivities is None:
            sensitivities = measured_sensitivities(model, recipe, prepared)
        if spec.gptq is not None and hessians is not None:
            gains = rounding_gains(hessians, spec.gptq)
            sensitivities = {name: value * gains.get(name, 1.0) for name, value in sensitivities.items()}
        costs = grid_costs(
            matrices,
            roles,
            sensitivities,
            spec.plan.choices,
            depths=depths(model) if spec.plan.by_depth else None,
        )
        self._costs: GridCosts = refined(costs) if spec.plan.between else costs
        self._fixed_bytes = _fixed_bytes(parameters, matrices, roles, recipe, prepared)

    def plan(self, *, margin: float = 0.0) -> Plan:
        """The grid of each role: as the recipe says, or the best that fits its budget less `margin` of it.

        Raises `BudgetError` if even the coarsest choice does not fit, with what would; where the file can
        still be pruned to fit, it is the coarsest.
        """
        if isinstance(self._spec.plan, FixedBits):
            return self._spec.plan.grids() | _gates(self._spec)
        budget = self._spec.budget_bytes
        assert budget is not None
        fitted = fit(self._costs, budget_bytes=int(budget * (1 - margin)), fixed_bytes=self._fixed_bytes)
        if not fitted.fits and not self._spec.prune_to_fit:
            raise BudgetError(
                f"compression.budget_bytes={budget:,} is missed by {fitted.miss_bytes:,} bytes "
                f"with the coarsest grids; {fitted.remedy} (then: bytegolf compress FOLDER)"
            )
        return fitted.grids | _gates(self._spec)


def measured_sensitivities(model: LanguageModel, recipe: Recipe, prepared: Prepared) -> dict[str, float]:
    """How much errors of each matrix hurt on some training text, the same for every run of a recipe."""
    batches = training_batches(model, recipe, prepared, batches=_CALIBRATION_BATCHES, rows=_CALIBRATION_ROWS)
    return fisher_sensitivities(model, batches)


def early_plan(model: LanguageModel, recipe: Recipe, prepared: Prepared, ranks: Ranks) -> Plan:
    """The grids for quantization-aware training, a little coarser than fits: weights still move.

    They are the lead's choice on every rank: ranks' sums may differ in their last bits.
    """
    chosen = PlanChoice(model, recipe, prepared).plan(margin=_MARGIN) if ranks.leads else {}
    return plan_from_json(json.loads(ranks.from_lead(json.dumps(plan_to_json(chosen)))))


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
    fixed_bytes = _fixed_bytes(parameters, matrices, roles, recipe, prepared)
    fitted = fit(costs, budget_bytes=spec.budget_bytes, fixed_bytes=fixed_bytes)
    if not fitted.fits:
        raise BudgetError(
            f"compression.budget_bytes={spec.budget_bytes:,} is too small for this model, which needs about "
            f"{fitted.total_bytes:,} bytes with the coarsest grids; {fitted.remedy}"
        )


def _gates(spec: Compression) -> Plan:
    return {} if spec.gates is None else {str(Role.GATE): spec.gates}


def _matrices(parameters: dict[str, Tensor], roles: dict[str, str], recipe: Recipe) -> dict[str, Tensor]:
    """Those parameters that go on grids, without the weights that are pruned before."""
    spec = recipe.compression
    return {
        name: prune_smallest(value, spec.prune)
        for name, value in parameters.items()
        if is_matrix(value, roles[name], spec.passthrough_elements)
    }


def _fixed_bytes(
    parameters: dict[str, Tensor],
    matrices: dict[str, Tensor],
    roles: dict[str, str],
    recipe: Recipe,
    prepared: Prepared,
) -> int:
    """Bytes of everything but the matrices, from an artifact that holds just that.

    Corrections are counted as if the largest matrices had them.
    """
    spec = recipe.compression
    rest = {name: value for name, value in parameters.items() if name not in matrices}
    stored = compress_model(rest, roles, _gates(spec), passthrough_elements=spec.passthrough_elements)
    empty = Contents(
        to_json(recipe), prepared.tokenizer.to_bytes(), stored, dict.fromkeys(rest, "scalar"), {}
    )
    size = pack(empty)[1].total_bytes
    if spec.correction is None:
        return size
    corrections = sorted(
        (correction_bytes((len(m), m.shape[1]), spec.correction) for m in matrices.values()), reverse=True
    )
    return size + sum(corrections[: spec.correction.matrices])
