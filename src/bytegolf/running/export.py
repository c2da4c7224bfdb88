"""From a trained model to its artifact file: the grids are chosen, and the bytes counted."""

import functools
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bytegolf.artifact.account import Account
from bytegolf.artifact.container import Coded, Contents, pack
from bytegolf.compression.calibration import gather_hessians
from bytegolf.compression.compress import compress_model, role_rows, storage_of
from bytegolf.compression.plan import Plan
from bytegolf.compression.pruning import SingleSteps, fewest_that_fit
from bytegolf.compression.residual import correct_largest
from bytegolf.compression.spec import FitBytes
from bytegolf.compression.storage import Storage, Stored
from bytegolf.errors import BudgetError
from bytegolf.files import atomic_write
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.running.calibration import calibration_batches
from bytegolf.running.grids import PlanChoice, measured_sensitivities
from bytegolf.tokens.shards import Prepared
from bytegolf.tree import to_json

#: A fitted file that takes this share of its budget is not packed again to use the rest; so many more files
#: are packed at most if it takes less. Each try aims below the budget by another such share.
_FULL, _MORE_TRIES, _SHORT = 0.99, 2, 0.001


@dataclass(frozen=True)
class Exported:
    """An artifact on disk. plan_rows: for the report, one row a role. seconds: of each part of the work."""

    path: Path
    account: Account
    sha256: str
    plan: Plan
    plan_rows: list[dict[str, Any]]
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Packed:
    plan: Plan
    contents: Contents
    data: bytes
    account: Account

    @property
    def size(self) -> int:
        return len(self.data)


def export(
    model: LanguageModel,
    recipe: Recipe,
    prepared: Prepared,
    seen_plan: Plan | None,
    training: dict[str, Any],
    folder: Path,
) -> Exported:
    """Writes artifact.bg: with `seen_plan`, the grids that training saw, or with ones chosen now.

    A fitted plan that is over budget once it is really coded is fitted again with the excess taken off, and
    one that leaves more than 1 % of it free with the rest put on; with `prune_to_fit` either kind of plan
    stays, and integers are pruned. Raises `BudgetError` if nothing fits; a fixed plan that is too large and
    not to be pruned is written and said so by its size.
    """
    measured = _Measured(model, recipe, prepared)
    packer = _Packer(model, recipe, prepared.tokenizer.to_bytes(), training, measured)
    best = _best(packer, measured, seen_plan)
    path = folder / "artifact.bg"
    atomic_write(path, best.data)
    rows = role_rows(
        packer.parameters,
        best.contents.tensors,
        packer.roles,
        best.plan,
        bytes_by_role=dict(best.account.parts),
        passthrough_elements=recipe.compression.passthrough_elements,
    )
    sha256 = hashlib.sha256(best.data).hexdigest()
    plan_rows = [asdict(row) for row in rows]
    return Exported(path, best.account, sha256, best.plan, plan_rows, measured.watch.seconds)


class _Watch:
    """Seconds of wall clock by part of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Measured:
    """What is measured of a trained model on text, each when it is first asked for."""

    def __init__(self, model: LanguageModel, recipe: Recipe, prepared: Prepared) -> None:
        self._model, self._recipe, self._prepared = model, recipe, prepared
        self.watch = _Watch()

    @functools.cached_property
    def hessians(self) -> dict[str, Tensor] | None:
        """Where the recipe asks for GPTQ: the mean products of every matrix's inputs."""
        spec = self._recipe.compression.gptq
        if spec is None:
            return None
        with self.watch.part("hessians"):
            return gather_hessians(
                self._model, calibration_batches(self._model, self._recipe, self._prepared, spec)
            )

    @functools.cached_property
    def sensitivities(self) -> dict[str, float]:
        with self.watch.part("sensitivities"):
            return measured_sensitivities(self._model, self._recipe, self._prepared)

    def plan(self, *, margin: float = 0.0) -> Plan:
        """See `PlanChoice.plan`."""
        choice = self._choice
        with self.watch.part("plan"):
            return choice.plan(margin=margin)

    @functools.cached_property
    def _choice(self) -> PlanChoice:
        fitted = isinstance(self._recipe.compression.plan, FitBytes)
        sensitivities, hessians = (self.sensitivities, self.hessians) if fitted else (None, None)
        with self.watch.part("plan"):
            return PlanChoice(
                self._model, self._recipe, self._prepared, sensitivities=sensitivities, hessians=hessians
            )


class _Packer:
    """Makes artifacts of one trained model."""

    def __init__(
        self,
        model: LanguageModel,
        recipe: Recipe,
        tokenizer: bytes,
        training: dict[str, Any],
        measured: _Measured,
    ) -> None:
        self.recipe = recipe
        self.parameters = {name: value.detach().float().cpu() for name, value in model.named_parameters()}
        self.roles = {name: str(role) for name, role in parameter_roles(model).items()}
        self._tokenizer, self._training, self._measured = tokenizer, training, measured
        self._rounded: dict[tuple[str, Storage | None], Stored] = {}
        self._coded: Coded = {}

    def packed(self, plan: Plan) -> _Packed:
        """The artifact under a plan. What has been rounded to the same grid before is not rounded again."""
        spec, measured = self.recipe.compression, self._measured
        storages = {
            name: storage_of(
                name, value, self.roles[name], plan, passthrough_elements=spec.passthrough_elements
            )
            for name, value in self.parameters.items()
        }
        new = {n: value for n, value in self.parameters.items() if (n, storages[n]) not in self._rounded}
        hessians = measured.hessians
        with measured.watch.part("rounding"):
            found = compress_model(
                new,
                self.roles,
                plan,
                passthrough_elements=spec.passthrough_elements,
                prune=spec.prune,
                hessians=hessians,
                gptq=spec.gptq,
            )
        self._rounded.update({(name, storages[name]): stored for name, stored in found.items()})
        tensors = {name: self._rounded[name, storage] for name, storage in storages.items()}
        return self.coded(plan, self._corrected(tensors))

    def coded(self, plan: Plan, tensors: dict[str, Stored]) -> _Packed:
        """What was coded last time, and is the same now, is not coded again."""
        contents = Contents(to_json(self.recipe), self._tokenizer, tensors, self.roles, self._training)
        with self._measured.watch.part("coding"):
            return _Packed(plan, contents, *pack(contents, self._coded))

    def _corrected(self, tensors: dict[str, Stored]) -> dict[str, Stored]:
        spec, measured = self.recipe.compression.correction, self._measured
        if spec is None:
            return tensors
        sensitivities = measured.sensitivities if spec.largest == "loss" else None
        with measured.watch.part("correction"):
            return correct_largest(
                self.parameters,
                tensors,
                spec,
                hessians=measured.hessians,
                sensitivities=sensitivities,
            )


def _best(packer: _Packer, measured: _Measured, seen_plan: Plan | None) -> _Packed:
    """The artifact with the plan that training saw, or a fitted one, brought within the budget."""
    spec = packer.recipe.compression
    best = packer.packed(measured.plan() if seen_plan is None else seen_plan)
    budget = spec.budget_bytes
    if budget is None:
        return best
    if spec.prune_to_fit and best.size > budget:
        return _pruned_to_fit(packer, best, budget)
    if not isinstance(spec.plan, FitBytes):
        return best
    # Sizes were predicted; now that one is known, the prediction's error is taken off the next.
    last, margin, tries = best, 0.0, 0
    while best.size > budget or (seen_plan is None and best.size < _FULL * budget and tries < _MORE_TRIES):
        tries += 1
        margin += (last.size - budget) / budget + _SHORT * tries
        plan = measured.plan(margin=margin)
        if plan != last.plan:
            last = packer.packed(plan)
        elif best.size <= budget:
            break
        if best.size > budget or best.size < last.size <= budget:
            best = last
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
