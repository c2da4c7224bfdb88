"""Weights set to zero: the smallest before quantization, or single steps after it until a file fits.

R rows, C columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bytegolf.compression.grid import Quantized, expand_groups
from bytegolf.compression.rotation import rotated
from bytegolf.compression.storage import Stored

#: A pruned file that is below its budget by this share, or these bytes, is as good as one that meets it
#: exactly; and so many counts are tried at most, since each of them is really coded.
_CLOSE, _CLOSE_BYTES = 0.001, 64
_TRIES = 10


def prune_smallest(weight_RC: Tensor, share: float) -> Tensor:
    """The matrix without the `share` of its weights that are smallest in magnitude: zeros stand there.

    Of n weights the floor(share · n) smallest go, and those equal to the largest of them.
    """
    count = int(share * weight_RC.numel())
    if not count:
        return weight_RC
    magnitude_RC = weight_RC.detach().abs()
    border = magnitude_RC.reshape(-1).kthvalue(count).values
    return weight_RC.masked_fill(magnitude_RC <= border, 0.0)


class SingleSteps:
    """The integers ±1 of a compressed model, cheapest first, and the model without some of them.

    What a zero in the place of ±1 costs is the rise of the squared error, 2 s |w| - s² for a weight w in
    steps of s: s² for a weight on its grid point, which is how the challenge's PR 609 ranks them, and less
    for one that was rounded up. Binary matrices have no zero and are left out.
    """

    def __init__(self, parameters: Mapping[str, Tensor], compressed: Mapping[str, Stored]) -> None:
        self._compressed = dict(compressed)
        self._costs = {
            name: _zeroing_cost(parameters[name], matrix)
            for name, matrix in compressed.items()
            if isinstance(matrix, Quantized) and matrix.bits > 1
        }
        costs = [cost_RC[torch.isfinite(cost_RC)] for cost_RC in self._costs.values()]
        self._ranked = torch.cat(costs).sort().values if costs else torch.empty(0)

    def __len__(self) -> int:
        return len(self._ranked)

    def without(self, count: int) -> dict[str, Stored]:
        """The compressed model with the `count` cheapest at zero, and those that cost no more than these."""
        pruned = dict(self._compressed)
        if not count:
            return pruned
        border = self._ranked[count - 1]
        for name, cost_RC in self._costs.items():
            matrix = self._compressed[name]
            assert isinstance(matrix, Quantized)
            pruned[name] = replace(matrix, ints=matrix.ints.masked_fill(cost_RC <= border, 0))
        return pruned


def fewest_that_fit(size_without: Callable[[int], int], count: int, *, size: int, budget: int) -> int | None:
    """The least number out of 0..`count`, nearly, that brings a file of `size` bytes to its budget.

    `size_without(n)` is the real size with n integers pruned. None if not even all of them suffice.
    """
    if size <= budget:
        return 0
    near = budget - max(_CLOSE * budget, _CLOSE_BYTES)
    too_few, too_large = 0, size
    enough, small = count, size_without(count)
    if small > budget:
        return None
    for trial in range(_TRIES):
        if small >= near or enough - too_few <= 1:
            break
        # A straight line between both ends, aimed inside what counts as close; every other time the middle,
        # since on a bent curve the line alone comes close from one side only, and slowly.
        aimed = (too_large - (near + budget) / 2) / (too_large - small) if trial % 2 == 0 else 0.5
        tried = too_few + round((enough - too_few) * aimed)
        tried = min(max(tried, too_few + 1), enough - 1)
        tried_size = size_without(tried)
        if tried_size > budget:
            too_few, too_large = tried, tried_size
        else:
            enough, small = tried, tried_size
    return enough


def _zeroing_cost(weight_RC: Tensor, matrix: Quantized) -> Tensor:
    """The cost (R, C) of each ±1, infinite elsewhere."""
    columns = matrix.ints.shape[1]
    step_RC = expand_groups(matrix.scales.to(torch.float32), columns, matrix.group)
    weight_RC = weight_RC.detach().to(matrix.ints.device, torch.float32)
    aim_RC = rotated(weight_RC) if matrix.rotated else weight_RC
    if matrix.correction is not None:
        aim_RC = aim_RC - matrix.correction.product()
    # |w| where integers are the nearest; other rounding may have left a weight on the far side of zero.
    cost_RC = (2.0 * matrix.ints * aim_RC - step_RC) * step_RC
    return cost_RC.masked_fill(matrix.ints.abs() != 1, torch.inf)
