"""Quantization-aware training: from a share of the budget on, the forward pass sees the exported grid."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bytegolf.compression.compress import grid_of
from bytegolf.compression.grid import Grid
from bytegolf.compression.plan import Plan
from bytegolf.model.linear import Weight
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.tree import from_json, to_json


class QuantizationAware:
    """A training stage that puts every matrix of the plan through its grid after each update.

    The plan is asked for when the stage begins, so it can be fitted to the weights as they then are.
    """

    name = "quantization-aware training"

    def __init__(
        self, model: LanguageModel, at: float, choose_plan: Callable[[], Plan], passthrough_elements: int
    ) -> None:
        self.at = at
        self._choose_plan, self._passthrough = choose_plan, passthrough_elements
        roles = parameter_roles(model)
        self._weights = {
            f"{path}.weight": (module, roles[f"{path}.weight"])
            for path, module in model.named_modules()
            if isinstance(module, Weight)
        }
        self._groups: list[tuple[Grid, list[Weight]]] = []
        self.plan: Plan | None = None

    def prepare(self) -> None:
        """Gives every matrix the slot's compiled form, filled with the weight itself: nothing changes yet."""
        for module, _ in self._weights.values():
            module.quantized = module.weight.detach()

    def enter(self) -> None:
        self._begin(self._choose_plan())

    @torch.no_grad()
    def after_update(self) -> None:
        for grid, modules in self._groups:
            # Rows have scales of their own, so matrices of one width are one matrix; a GPU would otherwise
            # spend most of the step on starting small kernels. `quantize` would also make it wait.
            weights: list[Tensor] = [module.weight for module in modules]
            values_RC = grid.fake_quantize(torch.cat(weights))
            slots = [module.quantized for module in modules if module.quantized is not None]
            torch._foreach_copy_(slots, list(values_RC.split([len(weight) for weight in weights])))

    def state_dict(self) -> dict[str, Any]:
        assert self.plan is not None
        return {role: to_json(grid) for role, grid in self.plan.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._begin({role: from_json(Grid, grid, f"plan.{role}") for role, grid in state.items()})

    def leave(self) -> None:
        """Empties every slot, so that the model multiplies with its plain weights again."""
        for module, _ in self._weights.values():
            module.quantized = None

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        groups: dict[tuple[Grid, int], list[Weight]] = {}
        for name, (module, role) in self._weights.items():
            grid = grid_of(name, module.weight, role, plan, passthrough_elements=self._passthrough)
            if grid is not None:
                # A tensor of its own: until now the slot may have been the weight itself.
                module.quantized = module.weight.detach().clone()
                groups.setdefault((grid, module.weight.shape[1]), []).append(module)
        self._groups = [(grid, modules) for (grid, _), modules in groups.items()]
        self.after_update()
