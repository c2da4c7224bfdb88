"""Noisy quantization-aware training: weights shaken by one step of their grid instead of rounded to it.

R rows, C columns. Rounding errors of a trained matrix are nearly uniform within a step, so a network that is
trained under W + u · step with u uniform in [-1/2, 1/2] learns to bear them, and unlike rounding the noise
leaves no weight stuck. Meant for blocks that run several times with the same weights, where one error enters
again and again (PR 363 of the 16 MB challenge; the model of the noise: Widrow & Kollár 2008).
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bytegolf.compression.plan import Plan, plan_from_json, plan_to_json
from bytegolf.compression.slots import Group, fill_slots, open_slots, weight_modules
from bytegolf.compression.spec import Noise
from bytegolf.compression.storage import Storage, shaken
from bytegolf.errors import RecipeError
from bytegolf.model.loop import layer_order
from bytegolf.model.spec import LanguageModel


class NoisyWeights:
    """A training stage that puts fresh noise on the chosen matrices after each update.

    The noise follows from `seed` and the number of updates since the stage began, so every rank draws the
    same and a resumed training draws what an unbroken one would have. All passes of one step see one draw.
    Raises `RecipeError` if the model has no matrix that the spec chooses.
    """

    name = "noisy training"

    def __init__(
        self,
        model: LanguageModel,
        spec: Noise,
        choose_plan: Callable[[], Plan],
        passthrough_elements: int,
        *,
        seed: int,
    ) -> None:
        self.at = spec.start
        self._choose_plan, self._passthrough, self._seed = choose_plan, passthrough_elements, seed
        looped = _looped(model) if spec.looped_only else None
        self._weights = {
            name: (module, role)
            for name, (module, role) in weight_modules(model).items()
            if (spec.roles is None or role in spec.roles) and (looped is None or module in looped)
        }
        if not self._weights:
            raise RecipeError(
                "compression.noise chooses no matrix of this model; give it blocks that loop, or other roles"
            )
        self._groups: list[Group] = []
        self._generator = torch.Generator(model.device)
        self._draws = 0
        self.plan: Plan | None = None

    def prepare(self) -> None:
        """Gives every chosen matrix the slot's compiled form: nothing changes yet."""
        for module, _ in self._weights.values():
            module.quantized = module.weight.detach()

    def enter(self) -> None:
        self._begin(self._choose_plan(), draws=0)

    @torch.no_grad()
    def after_update(self) -> None:
        # Mixed into 32 bits, which is all that the generator on CPUs takes of a seed.
        mixed = np.random.SeedSequence((self._seed % (1 << 64), self._draws)).generate_state(1)
        self._generator.manual_seed(int(mixed[0]))
        self._draws += 1
        for storage, modules in self._groups:
            fill_slots(modules, functools.partial(self._shaken, storage))

    def state_dict(self) -> dict[str, Any]:
        assert self.plan is not None
        return {"plan": plan_to_json(self.plan), "draws": self._draws}

    def restore(self, state: dict[str, Any]) -> None:
        # The last draw is made again: it is what the next step will see.
        self._begin(plan_from_json(state["plan"]), draws=state["draws"] - 1)

    def _begin(self, plan: Plan, *, draws: int) -> None:
        self.plan, self._draws = plan, draws
        self._groups = open_slots(self._weights, plan, passthrough_elements=self._passthrough)
        self.after_update()

    def _shaken(self, storage: Storage, weight_RC: Tensor) -> Tensor:
        noise_RC = torch.rand(weight_RC.shape, generator=self._generator, device=weight_RC.device) - 0.5
        return shaken(storage, weight_RC, noise_RC)


def _looped(model: LanguageModel) -> set[nn.Module]:
    """The modules of all blocks that run more than once in a forward pass."""
    runs = Counter(layer_order(len(model.spec.layers), model.spec.loop))
    return {
        module
        for place, block in enumerate(model.stack.layers)
        if runs[place] > 1
        for module in block.modules()
    }
