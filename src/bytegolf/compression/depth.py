"""Which part of a network's depth a matrix belongs to; plans may give each part grids of its own.

What an error costs differs far more between the parts than within one: in the 16 MB challenge early layers
had Hessians about 30 times those of late ones, with loops and middle layers between, while differences
between single rows were noise.
"""

from collections import Counter
from enum import StrEnum

from bytegolf.model.spec import LanguageModel


class Depth(StrEnum):
    """Parts of the depth, in the order in which a token meets them."""

    EARLY = "early"
    LOOP = "loop"
    MIDDLE = "middle"
    LATE = "late"


def depths(model: LanguageModel) -> dict[str, str]:
    """The part of every parameter that belongs to a layer, by its name.

    With a loop: what runs before it, the loop, and two halves of what runs after. Without one: three thirds.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = model.stack.layers
    runs = Counter(model.stack.order)
    looped = [place for place in range(len(layers)) if runs[place] > 1]
    return {
        names[id(parameter)]: _depth(place, len(layers), looped)
        for place, layer in enumerate(layers)
        for parameter in layer.parameters()
    }


def _depth(place: int, layers: int, looped: list[int]) -> Depth:
    if not looped:
        return (Depth.EARLY, Depth.MIDDLE, Depth.LATE)[3 * place // layers]
    if place in looped:
        return Depth.LOOP
    if place < looped[0]:
        return Depth.EARLY
    return Depth.MIDDLE if place - looped[-1] <= (layers - 1 - looped[-1]) // 2 else Depth.LATE
