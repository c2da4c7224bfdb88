"""Quantization-aware training: from a share of the budget on, the forward pass sees the exported grid."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bytegolf.compression.plan import Plan, plan_from_json, plan_to_json
from bytegolf.compression.pruning import prune_smallest
from bytegolf.compression.slots import Group, fill_slots, open_slots, weight_modules
from bytegolf.compression.storage import Storage
from bytegolf.model.spec import LanguageModel


class QuantizationAware:
    """A training stage that puts every matrix of the plan through its storage after each update.

    The plan is asked for when the stage begins, so it can be fitted to the weights as they then are. `prune`
    is the share of each matrix that export zeroes before it quantizes.
    """

    name = "quantization-aware training"

    def __init__(
        self,
        model: LanguageModel,
        at: float,
        choose_plan: Callable[[], Plan],
        passthrough_elements: int,
        *,
        prune: float = 0.0,
    ) -> None:
        self.at = at
        self._choose_plan, self._passthrough, self._prune = choose_plan, passthrough_elements, prune
        self._weights = weight_modules(model)
        self._groups: list[Group] = []
        self.plan: Plan | None = None

    def prepare(self) -> None:
        """Gives every matrix the slot's compiled form, filled with the weight itself: nothing changes yet."""
        for module, _ in self._weights.values():
            module.quantized = module.weight.detach()

    def enter(self) -> None:
        self._begin(self._choose_plan())

    @torch.no_grad()
    def after_update(self) -> None:
        for storage, modules in self._groups:
            fill_slots(modules, functools.partial(self._values, storage))

    def state_dict(self) -> dict[str, Any]:
        assert self.plan is not None
        return plan_to_json(self.plan)

    def restore(self, state: dict[str, Any]) -> None:
        self._begin(plan_from_json(state))

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        self._groups = open_slots(
            self._weights, plan, passthrough_elements=self._passthrough, joined=not self._prune
        )
        self.after_update()

    def _values(self, storage: Storage, weight_RC: Tensor) -> Tensor:
        # `quantize` would make a GPU wait.
        return storage.fake_quantize(prune_smallest(weight_RC, self._prune))
