"""The share of a budget from which layers loop."""

from bytegolf.model.loop import Loop
from bytegolf.model.spec import LanguageModel
from bytegolf.training.stages import Switch


class LoopStart(Switch):
    """A training stage: up to its share of the budget every layer runs once, from then on the loop runs.

    A checkpoint holds that it has begun, and nothing else: the order of layers follows from the recipe.
    """

    name = "loop"

    def __init__(self, model: LanguageModel, loop: Loop) -> None:
        self.at = loop.start
        self._stack, self._loop = model.stack, loop

    def enter(self) -> None:
        self._stack.run_passes(self._loop.passes)


def begin_unlooped(model: LanguageModel) -> list[LoopStart]:
    """Gives the model the order of layers with which training begins; the stages that change it later.

    A model as built runs its layers as they are scored, with all passes and extra ones.
    """
    loop = model.spec.loop
    if loop is None:
        return []
    model.stack.run_passes(1 if loop.start else loop.passes)
    return [LoopStart(model, loop)] if loop.start else []
