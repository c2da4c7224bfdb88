"""Which layers run, in which order: each once, or some of them several times with the same weights."""

from dataclasses import dataclass

from bytegolf.errors import RecipeError
from bytegolf.model.injection import Parcae

#: Far above anything that has helped; a file from a stranger must not ask for a billion.
_MOST_PASSES = 64


@dataclass(frozen=True)
class Loop:
    """Layers `first` to `last` (counted from 0, both included) run `passes` times, one after the other.

    Weights are shared between passes, all of them: `Loop(1, 3, 2)` over five layers runs 0 1 2 3 1 2 3 4.
    start: share of the training budget up to which every layer runs once. injection: what enters a pass after
    the first; None for what the pass before left. extra_passes: how many more passes run outside training.
    """

    first: int
    last: int
    passes: int = 2
    start: float = 0.0
    injection: Parcae | None = None
    extra_passes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise RecipeError(
                f"first={self.first}, last={self.last}; give a layer, 0 being the first, and a later one"
            )
        if not 1 <= self.passes <= _MOST_PASSES:
            raise RecipeError(f"passes={self.passes}; give 1 to {_MOST_PASSES}")
        if not 0.0 <= self.start < 1.0:
            raise RecipeError(
                f"start={self.start} of a loop; give a share of the training budget, 0 ≤ start < 1"
            )
        if self.injection is not None and self.passes < 2:
            raise RecipeError(
                f"passes={self.passes} of a loop with injection; give 2 or more, or injection None: "
                "it acts between passes and would never be trained"
            )
        if not 0 <= self.extra_passes <= _MOST_PASSES - self.passes:
            raise RecipeError(
                f"extra_passes={self.extra_passes}; give 0 to {_MOST_PASSES - self.passes}, "
                f"with the {self.passes} of training at most {_MOST_PASSES}"
            )

    @property
    def scored_passes(self) -> int:
        """How often the layers run outside training."""
        return self.passes + self.extra_passes


def layer_order(layers: int, loop: Loop | None, passes: int | None = None) -> tuple[int, ...]:
    """The layer that runs at each place, for a network of so many layers; `passes` by default as in training.

    Raises `RecipeError` if the loop names a layer that does not exist.
    """
    if loop is None:
        return tuple(range(layers))
    if loop.last >= layers:
        raise RecipeError(
            f"loop.last={loop.last}, but the layers are 0 to {layers - 1}; choose a layer that exists"
        )
    core = range(loop.first, loop.last + 1)
    times = loop.passes if passes is None else passes
    return (*range(loop.first), *(*core,) * times, *range(loop.last + 1, layers))
