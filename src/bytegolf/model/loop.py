"""Which layers run, in which order: each once, or some of them several times with the same weights."""

from dataclasses import dataclass

from bytegolf.errors import RecipeError

#: Far above anything that has helped; a file from a stranger must not ask for a billion.
_MOST_PASSES = 64


@dataclass(frozen=True)
class Loop:
    """Layers `first` to `last` (counted from 0, both included) run `passes` times, one after the other.

    Weights are shared between passes, all of them: `Loop(1, 3, 2)` over five layers runs 0 1 2 3 1 2 3 4.
    """

    first: int
    last: int
    passes: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise RecipeError(
                f"first={self.first}, last={self.last}; give a layer, 0 being the first, and a later one"
            )
        if not 1 <= self.passes <= _MOST_PASSES:
            raise RecipeError(f"passes={self.passes}; give 1 to {_MOST_PASSES}")


def layer_order(layers: int, loop: Loop | None) -> tuple[int, ...]:
    """The layer that runs at each place, for a network of so many layers."""
    if loop is None:
        return tuple(range(layers))
    if loop.last >= layers:
        raise RecipeError(
            f"loop.last={loop.last}, but the layers are 0 to {layers - 1}; choose a layer that exists"
        )
    core = range(loop.first, loop.last + 1)
    return (*range(loop.first), *(*core,) * loop.passes, *range(loop.last + 1, layers))
