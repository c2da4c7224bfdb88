"""What each grid would cost each group of matrices: bytes in the file, and predicted rise of the loss.

Asked while the clock of a training runs, so it looks at no more than it must. Every matrix goes on every grid
with a sample of its rows, on the device where it is: that gives errors, and the entropy of the integers. What
the coder's model makes of them takes far longer and runs on the processor. Of large matrices it is asked on
the finest and the coarsest grid alone, and only in the first, middle and last layer: its size over the
entropy goes evenly from one to the other, to 0.2 % on trained weights.

Steps between those of two grids that were measured are not measured again. The entropy of a rounded Gaussian
is 2.047 - log2(step / standard deviation) bits, and its error goes with the square of the step, so between
neighbours bytes go evenly with the logarithm of the step, and so does the logarithm of the loss.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bytegolf.compression.arrangement import arrangements
from bytegolf.compression.context import SCALE_LIMIT, SCALE_ROW, code_bits, scale_steps
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.storage import Storage, Stored, dequantized
from bytegolf.errors import RecipeError

#: Stream tags, word rounding, and the tensor's line in the compressed header.
TENSOR_OVERHEAD_BYTES = 32
#: Weights of a matrix that are looked at for each grid.
_SAMPLED_WEIGHTS = 1 << 17
#: Steps between two grids that `refined` adds: about 0.14 bits a weight apart where those are 0.55.
_BETWEEN = 3
#: Of smaller matrices the coder's model is asked on every grid; scales count for more in them.
_LEAST_FOR_ENTROPY = 1 << 16


@dataclass(frozen=True, slots=True)
class Cost:
    """One group on one grid: bytes, and predicted loss increase."""

    size: float
    loss: float


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices of one role that share a grid, by name, and what each choice costs them together."""

    role: str
    names: tuple[str, ...]
    costs: list[Cost]


@dataclass(frozen=True, slots=True)
class GridCosts:
    """What each of `choices` costs each group."""

    choices: tuple[Storage, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One matrix on every grid by some of its rows.

    errors: squared, summed over all weights. entropies: bytes of all integers, by grid; for grids that are
    not in it, `coded` has what the coder's model takes.
    """

    tensor: Tensor
    errors: list[float]
    entropies: dict[int, float]
    coded: dict[int, float]


@dataclass(frozen=True, slots=True)
class _Ends:
    """Coded bytes over entropy on a matrix's coarsest and finest grid, with the entropies a weight there."""

    entropies: tuple[float, float]
    ratios: tuple[float, float]

    def ratio(self, entropy: float) -> float:
        """Coded bytes over entropy on a grid with this entropy a weight."""
        return float(np.interp(entropy, self.entropies, self.ratios))


def grid_costs(
    tensors: Mapping[str, Tensor],
    roles: Mapping[str, str],
    sensitivities: Mapping[str, float],
    choices: Sequence[Storage],
    *,
    depths: Mapping[str, str] | None = None,
) -> GridCosts:
    """Every matrix on every grid, needed once for any budget.

    `tensors` are the matrices to quantize (see `plan.is_matrix`) in the order of layers, `roles` and
    `sensitivities` have their names. With `depths`, matrices of one role form a group for each of its values.
    A tensor that stands under several names is measured once.
    """
    if not choices:
        raise RecipeError("no grid to choose from; give one or more")
    distinct = {id(tensor): tensor for tensor in tensors.values()}
    samples = {key: _sample(tensor, choices) for key, tensor in distinct.items()}
    ends = functools.cache(lambda key: _ends(samples[key], choices))
    members: dict[tuple[str, str], list[str]] = {}
    alike: dict[tuple[str, torch.Size], list[int]] = {}
    for name, tensor in tensors.items():
        depth = "" if depths is None else depths.get(name, "")
        members.setdefault((str(roles[name]), depth), []).append(name)
        alike.setdefault((str(roles[name]), tensor.shape), []).append(id(tensor))
    sizes = {
        (role, key): found
        for (role, _), keys in alike.items()
        for key, found in zip(keys, _sizes([samples[key] for key in keys], keys, ends), strict=True)
    }
    groups = tuple(
        Group(
            role,
            tuple(names),
            [
                Cost(
                    size=sum(sizes[role, id(tensors[name])][i] + TENSOR_OVERHEAD_BYTES for name in names),
                    loss=sum(sensitivities[name] * samples[id(tensors[name])].errors[i] for name in names),
                )
                for i in range(len(choices))
            ],
        )
        for (role, _), names in members.items()
    )
    return GridCosts(tuple(choices), groups)


def refined(costs: GridCosts) -> GridCosts:
    """The same with steps between neighbouring grids of k standard deviations: a nearly continuous choice.

    A grid in between has the bits of its finer neighbour, so it clips less than that.
    """
    between = [
        (_in_between(costs.choices[fine], share * (log_steps[1] - log_steps[0])), fine, coarse, share)
        for fine, coarse, log_steps in _neighbours(costs.choices)
        for share in np.arange(1, _BETWEEN + 1) / (_BETWEEN + 1)
    ]
    groups = tuple(
        replace(
            group,
            costs=[
                *group.costs,
                *(_interpolated(group.costs[i], group.costs[j], share) for _, i, j, share in between),
            ],
        )
        for group in costs.groups
    )
    return GridCosts((*costs.choices, *(grid for grid, *_ in between)), groups)


def _neighbours(choices: Sequence[Storage]) -> Iterator[tuple[int, int, tuple[float, float]]]:
    """The places of two grids that differ in their step alone, the finer first, with its logarithms."""
    for turned in (False, True):
        steps = sorted(
            (math.log(choice.clip.k / choice.limit), place)
            for place, choice in enumerate(choices)
            if isinstance(choice, Grid)
            and isinstance(choice.clip, StandardDeviations)
            and choice.rotated == turned
        )
        for (fine, i), (coarse, j) in itertools.pairwise(steps):
            yield i, j, (fine, coarse)


def _in_between(finer: Storage, log_step: float) -> Storage:
    """The grid with a step larger by so much."""
    assert isinstance(finer, Grid)
    assert isinstance(finer.clip, StandardDeviations)
    return replace(finer, clip=StandardDeviations(round(finer.clip.k * math.exp(log_step), 3)))


def _interpolated(fine: Cost, coarse: Cost, share: float) -> Cost:
    loss = fine.loss + share * (coarse.loss - fine.loss)
    if fine.loss > 0 and coarse.loss > 0:
        loss = fine.loss ** (1 - share) * coarse.loss**share
    return Cost(fine.size + share * (coarse.size - fine.size), loss)


def estimate_bytes(stored: Stored) -> float:
    """Bytes that a stored matrix takes in an artifact, within 1 % from about 10 kB on."""
    bits = _integer_bits(stored) if isinstance(stored, Quantized) else _float_bits(stored)
    return bits / 8 + TENSOR_OVERHEAD_BYTES


def _integer_bits(matrix: Quantized) -> float:
    ints_RC = matrix.ints.detach().cpu().numpy()
    scales = matrix.scales.detach().cpu().numpy()
    grouped = scales.ndim == 2 and scales.shape[1] > 1
    bits = min(arrangement.bits for arrangement in arrangements(ints_RC, matrix.limit))
    if matrix.bits == 1:
        bits = min(bits, float(ints_RC.size))
    split = scale_steps(scales.reshape(-1), scales.shape[1] if grouped else SCALE_ROW)
    return bits + (16 * scales.size if split is None else code_bits(split[1], SCALE_LIMIT))


def _float_bits(values: Tensor) -> float:
    """Eight-bit floats go through the coder's model in the order of their values.

    Of longer ones, the entropy of each byte by its place: what a byte-wise coder makes of shuffled floats.
    """
    rows = len(values)
    planes = (
        values.detach().cpu().contiguous().view(torch.uint8).reshape(rows, -1, values.element_size()).numpy()
    )
    if planes.shape[2] == 1:
        patterns_RC = planes[:, :, 0]
        magnitude_RC = (patterns_RC & 127).astype(np.int8)
        return code_bits(np.where(patterns_RC > 127, ~magnitude_RC, magnitude_RC), 127)
    bits = 0.0
    for plane in planes.reshape(-1, planes.shape[2]).T:
        counts = np.bincount(plane, minlength=256)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / len(plane))).sum())
    return bits


def _sample(tensor: Tensor, choices: Sequence[Storage]) -> _Sample:
    step = max(1, -(-tensor.numel() // _SAMPLED_WEIGHTS))
    rows = tensor[::step]
    share = len(rows) / len(tensor)
    errors: list[float] = []
    entropies: dict[int, float] = {}
    coded: dict[int, float] = {}
    by_entropy = rows.numel() >= _LEAST_FOR_ENTROPY and sum(isinstance(c, Grid) for c in choices) > 2
    for i, storage in enumerate(choices):
        matrix = storage.quantize(rows)
        errors.append(float((rows.detach().float() - dequantized(matrix)).square().sum()) / share)
        if by_entropy and isinstance(storage, Grid) and isinstance(matrix, Quantized):
            entropies[i] = _entropy_bytes(matrix) / share
        else:
            coded[i] = _coded_bytes(matrix) / share
    return _Sample(tensor, errors, entropies, coded)


def _ends(sample: _Sample, choices: Sequence[Storage]) -> _Ends:
    # The whole matrix, because alike rows are found only where all of them are looked at.
    tensor, entropies = sample.tensor, sample.entropies
    low, high = min(entropies, key=entropies.__getitem__), max(entropies, key=entropies.__getitem__)
    weights = tensor.numel()
    ratios = [_coded_bytes(choices[i].quantize(tensor)) / entropies[i] for i in (low, high)]
    return _Ends((entropies[low] / weights, entropies[high] / weights), (ratios[0], ratios[1]))


def _sizes(
    samples: Sequence[_Sample], keys: Sequence[int], ends: Callable[[int], _Ends]
) -> list[dict[int, float]]:
    """Coded bytes by grid of matrices of one role and shape, in the order of layers."""
    last = len(samples) - 1
    looked_at = sorted({0, last // 2, last})
    found = []
    for place, sample in enumerate(samples):
        sizes = dict(sample.coded)
        for i, entropy in sample.entropies.items():
            share = entropy / sample.tensor.numel()
            ratios = [ends(keys[other]).ratio(share) for other in looked_at]
            sizes[i] = entropy * float(np.interp(place, looked_at, ratios))
        found.append(sizes)
    return found


def _coded_bytes(matrix: Stored) -> float:
    return estimate_bytes(matrix) - TENSOR_OVERHEAD_BYTES


def _entropy_bytes(matrix: Quantized) -> float:
    """Bytes of the integers if each were coded by how often its value occurs in the whole matrix."""
    counts = torch.bincount(matrix.ints.flatten().to(torch.int64) + matrix.limit).double()
    shares = counts[counts > 0] / counts.sum()
    # Never 0: a matrix of one value still has scales.
    return max(1.0, float(-(shares * shares.log2()).sum()) * matrix.ints.numel() / 8)
