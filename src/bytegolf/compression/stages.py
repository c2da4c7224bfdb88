"""What training sees of the grids: the stages that a recipe's compression asks for, under one plan."""

from collections.abc import Callable

from bytegolf.compression.noise import NoisyWeights
from bytegolf.compression.plan import Plan
from bytegolf.compression.quantization_aware import QuantizationAware
from bytegolf.compression.spec import Compression
from bytegolf.model.spec import LanguageModel


class SeenGrids:
    """The stages of a training. The first that begins asks `choose_plan`, and all go by the answer."""

    def __init__(
        self, model: LanguageModel, spec: Compression, choose_plan: Callable[[], Plan], *, seed: int
    ) -> None:
        self._choose_plan = choose_plan
        self.stages: list[QuantizationAware | NoisyWeights] = []
        if spec.quantization_aware_from is not None:
            stage = QuantizationAware(
                model,
                spec.quantization_aware_from,
                self._shared_plan,
                spec.passthrough_elements,
                prune=spec.prune,
            )
            self.stages.append(stage)
        if spec.noise is not None:
            noisy = NoisyWeights(model, spec.noise, self._shared_plan, spec.passthrough_elements, seed=seed)
            self.stages.append(noisy)

    @property
    def plan(self) -> Plan | None:
        """The plan that training saw, and that the artifact should have; None if no stage has begun."""
        return next((stage.plan for stage in self.stages if stage.plan is not None), None)

    def _shared_plan(self) -> Plan:
        return self._choose_plan() if self.plan is None else self.plan
