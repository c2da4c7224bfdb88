"""Weights of three or of two values, with one scale for each group of consecutive columns in a row.

R rows (outputs), C columns (inputs), G groups a row. The scale of a group starts from its mean magnitude and
is rounded to what is stored *before* the integers are found, as everywhere in this package. The challenge's
ternary and binary networks (its PRs 640 and 641) cut groups from the flattened matrix; ours never leave a
row, so that no group spans two outputs, and a row's last group may have fewer columns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.compression.grid import Quantized, expand_groups, finite, round_scale
from bytegolf.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Ternary:
    """w ≈ s · clamp(round(w / s), -1, 1) with s = mean|w| of its group.

    `scale` "mean" keeps that s. "refit" then replaces it by mean|w| over the weights that did not become
    zero, the scale with the least squared error for these integers. A matrix on its own ternary values is
    left as it is by "refit"; by "mean" it shrinks, since its zeros count in the mean.
    """

    group: int = 128
    scale: Literal["mean", "refit"] = "mean"

    def __post_init__(self) -> None:
        _check_group(self.group)

    @property
    def bits(self) -> int:
        return 2

    @property
    def rows_are_independent(self) -> bool:
        return True

    def quantize(self, weight_RC: Tensor) -> Quantized:
        """Integers and scales of a matrix. Raises `DivergedError` if a weight is not finite."""
        weight_RC = finite(weight_RC)
        ints_RC, scale_RG = self._split(weight_RC)
        group = min(self.group, weight_RC.shape[1])
        return Quantized(ints_RC.to(torch.int8), scale_RG.to(torch.float16), self.bits, group)

    def fake_quantize(self, weight_RC: Tensor) -> Tensor:
        """`quantize(w).dequantize()`, bit for bit in eager mode, with the gradient of the identity."""
        weight_RC = weight_RC.to(torch.float32)
        detached_RC = weight_RC.detach()
        ints_RC, scale_RG = self._split(detached_RC)
        return ints_RC * _columns(scale_RG, detached_RC, self.group) + (weight_RC - detached_RC)

    def steps(self, weight_RC: Tensor) -> Tensor:
        """The distance (R, C) between neighbouring values, float32: the scale."""
        detached_RC = weight_RC.detach().to(torch.float32)
        return _columns(self._split(detached_RC)[1], detached_RC, self.group)

    def describe(self) -> str:
        """A short name for tables."""
        return f"ternary, groups of {self.group}" + (", refit" if self.scale == "refit" else "")

    def _split(self, weight_RC: Tensor) -> tuple[Tensor, Tensor]:
        magnitude_RC = weight_RC.abs()
        scale_RG = round_scale(_group_means(magnitude_RC, self.group))
        ints_RC = torch.round(weight_RC / _columns(scale_RG, weight_RC, self.group)).clamp(-1, 1)
        if self.scale == "refit":
            kept_RC = ints_RC.abs()
            share_RG = _group_means(kept_RC, self.group).clamp(min=0.5 / weight_RC.shape[1])
            scale_RG = round_scale(_group_means(magnitude_RC * kept_RC, self.group) / share_RG)
        return ints_RC, scale_RG


@dataclass(frozen=True, slots=True)
class Binary:
    """w ≈ s · sign(w) with s = mean|w| of its group; a weight of zero counts as positive."""

    group: int = 128

    def __post_init__(self) -> None:
        _check_group(self.group)

    @property
    def bits(self) -> int:
        return 1

    @property
    def rows_are_independent(self) -> bool:
        return True

    def quantize(self, weight_RC: Tensor) -> Quantized:
        """Signs and scales of a matrix. Raises `DivergedError` if a weight is not finite."""
        weight_RC = finite(weight_RC)
        signs_RC, scale_RG = self._split(weight_RC)
        group = min(self.group, weight_RC.shape[1])
        return Quantized(signs_RC.to(torch.int8), scale_RG.to(torch.float16), self.bits, group)

    def fake_quantize(self, weight_RC: Tensor) -> Tensor:
        """`quantize(w).dequantize()`, bit for bit in eager mode, with the gradient of the identity."""
        weight_RC = weight_RC.to(torch.float32)
        detached_RC = weight_RC.detach()
        signs_RC, scale_RG = self._split(detached_RC)
        return signs_RC * _columns(scale_RG, detached_RC, self.group) + (weight_RC - detached_RC)

    def steps(self, weight_RC: Tensor) -> Tensor:
        """The distance (R, C) between the two values, float32: twice the scale."""
        detached_RC = weight_RC.detach().to(torch.float32)
        return 2.0 * _columns(self._split(detached_RC)[1], detached_RC, self.group)

    def describe(self) -> str:
        """A short name for tables."""
        return f"binary, groups of {self.group}"

    def _split(self, weight_RC: Tensor) -> tuple[Tensor, Tensor]:
        signs_RC = 1.0 - 2.0 * (weight_RC < 0).to(torch.float32)
        return signs_RC, round_scale(_group_means(weight_RC.abs(), self.group))


def _group_means(values_RC: Tensor, group: int) -> Tensor:
    """The mean (R, G) of each group of columns, the last of which may be shorter."""
    rows, columns = values_RC.shape
    group = min(group, columns)
    whole = columns // group * group
    means = [values_RC[:, :whole].reshape(rows, -1, group).mean(dim=2)]
    if whole < columns:
        means.append(values_RC[:, whole:].mean(dim=1, keepdim=True))
    return torch.cat(means, dim=1)


def _columns(scale_RG: Tensor, weight_RC: Tensor, group: int) -> Tensor:
    columns = weight_RC.shape[1]
    return expand_groups(scale_RG, columns, min(group, columns))


def _check_group(group: int) -> None:
    if group < 1:
        raise RecipeError(f"groups of {group} columns; give 1 or more")
