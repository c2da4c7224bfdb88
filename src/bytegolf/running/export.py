"""From a trained model to its artifact file: the grids are chosen, and the bytes counted."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytegolf.artifact.account import Account
from bytegolf.artifact.container import Contents, pack, write_artifact
from bytegolf.compression.compress import compress_model, role_rows
from bytegolf.compression.plan import Plan, fit, is_matrix
from bytegolf.compression.sensitivity import fisher_sensitivities
from bytegolf.compression.spec import FitBytes, FixedBits
from bytegolf.errors import BudgetError
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.shards import Prepared
from bytegolf.tree import to_json

#: Batches and rows of training text from which sensitivities are measured.
_CALIBRATION_BATCHES, _CALIBRATION_ROWS = 4, 8
#: Left free when grids are fitted before the end of training: weights still move.
_MARGIN = 0.01


@dataclass(frozen=True)
class Exported:
    """An artifact on disk. plan_rows: for the report, one row a role."""

    path: Path
    account: Account
    sha256: str
    plan: Plan
    plan_rows: list[dict[str, Any]]


def choose_plan(model: LanguageModel, recipe: Recipe, prepared: Prepared, *, margin: float = _MARGIN) -> Plan:
    """The grid of each role: as the recipe says, or the best that fits its byte budget.

    Raises `BudgetError` if even the coarsest choice does not fit, with what would.
    """
    spec = recipe.compression
    if isinstance(spec.plan, FixedBits):
        return spec.plan.grids()
    assert spec.budget_bytes is not None
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    parameters = {name: value.detach().cpu() for name, value in model.named_parameters()}
    matrices = _matrices(parameters, roles, recipe)
    fitted = fit(
        matrices,
        roles,
        fisher_sensitivities(model, _calibration(recipe, prepared, model.device)),
        budget_bytes=int(spec.budget_bytes * (1 - margin)),
        fixed_bytes=_fixed_bytes(parameters, matrices, recipe, prepared),
        choices=spec.plan.choices,
    )
    if not fitted.fits:
        raise BudgetError(
            f"compression.budget_bytes={spec.budget_bytes:,} is missed by {fitted.miss_bytes:,} bytes "
            f"with the coarsest grids; {fitted.remedy} (then: bytegolf compress FOLDER)"
        )
    return fitted.grids


def refuse_hopeless_budget(model: LanguageModel, recipe: Recipe, prepared: Prepared) -> None:
    """Raises `BudgetError` before training if the coarsest grids cannot fit the byte budget.

    Weights are stood in for by normal ones, which a trained matrix resembles when it is coded.
    """
    spec = recipe.compression
    if not isinstance(spec.plan, FitBytes) or spec.budget_bytes is None:
        return
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    generator = torch.Generator().manual_seed(0)
    # One for each shape: `fit` then measures it once, and nobody waits for hundreds of equal results.
    by_shape = {
        shape: torch.randn(shape, generator=generator)
        for shape in {value.shape: None for value in model.parameters()}
    }
    parameters = {name: by_shape[value.shape] for name, value in model.named_parameters()}
    matrices = _matrices(parameters, roles, recipe)
    fitted = fit(
        matrices,
        roles,
        dict.fromkeys(matrices, 1.0),
        budget_bytes=spec.budget_bytes,
        fixed_bytes=_fixed_bytes(parameters, matrices, recipe, prepared),
        choices=spec.plan.choices,
    )
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

    A fitted plan that is over budget once it is really coded is fitted again with the excess taken off.
    Raises `BudgetError` if no plan fits; a fixed plan that is too large is written and said so by its size.
    """
    spec = recipe.compression
    plan = seen_plan if seen_plan is not None else choose_plan(model, recipe, prepared, margin=0.0)
    parameters = {name: value.detach().float().cpu() for name, value in model.named_parameters()}
    roles = {name: str(role) for name, role in parameter_roles(model).items()}

    def packed(plan: Plan) -> tuple[Contents, int]:
        compressed = compress_model(parameters, roles, plan, passthrough_elements=spec.passthrough_elements)
        contents = Contents(to_json(recipe), prepared.tokenizer.to_bytes(), compressed, roles, training)
        return contents, pack(contents)[1].total_bytes

    contents, size = packed(plan)
    if isinstance(spec.plan, FitBytes) and spec.budget_bytes is not None:
        # Sizes were predicted; now that one is known, the prediction's error is taken off the next.
        margin, tries = 0.0, 0
        while size > spec.budget_bytes or (seen_plan is None and tries == 0):
            margin += (size - spec.budget_bytes) / spec.budget_bytes + (0.002 if tries else 0.0)
            tries += 1
            other = choose_plan(model, recipe, prepared, margin=margin)
            other_contents, other_size = packed(other)
            if size > spec.budget_bytes or size < other_size <= spec.budget_bytes:
                plan, contents, size = other, other_contents, other_size
    path = folder / "artifact.bg"
    account = write_artifact(path, contents)
    bytes_by_role = dict(account.parts)
    rows = role_rows(parameters, contents.tensors, roles, plan, bytes_by_role=bytes_by_role)
    return Exported(
        path,
        account,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        plan,
        [
            {
                "role": row.role,
                "bits": row.bits,
                "clip": row.clip,
                "parameters": row.parameters,
                "bytes": row.bytes,
                "relative_error": row.relative_error,
            }
            for row in rows
        ],
    )


def _matrices(parameters: dict[str, Tensor], roles: dict[str, str], recipe: Recipe) -> dict[str, Tensor]:
    """Those parameters that go on grids."""
    least = recipe.compression.passthrough_elements
    return {name: value for name, value in parameters.items() if is_matrix(value, roles[name], least)}


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
