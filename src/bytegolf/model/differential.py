"""Differential attention: two attentions of half the head width, whose sum and difference a head reads.

Shapes: B rows, T tokens, H heads in G groups of R that share keys, K head width, h = K / 2.
"""

import torch
from torch import Tensor


def as_half_heads(x_BTHK: Tensor, groups: int) -> Tensor:
    """The halves of H heads as 2H heads of half the width, (B, T, 2H, h), in 2G groups.

    In a group of R heads all first halves come before all second halves, so that grouped attention gives a
    query's half the same half of its keys.
    """
    x_BTGR2h = x_BTHK.unflatten(-1, (2, -1)).unflatten(2, (groups, -1))
    return x_BTGR2h.transpose(3, 4).flatten(2, 4)


def for_half_heads(factor_H: Tensor, groups: int) -> Tensor:
    """One number a head as one number a half head, (2H,), in the order of `as_half_heads`."""
    return factor_H.unflatten(0, (groups, 1, -1)).expand(-1, 2, -1).flatten()


def sum_and_difference(y_BTNh: Tensor, factor_1: Tensor, groups: int) -> Tensor:
    """[y₁ − λ y₂, y₁ + λ y₂] from the N = 2H outputs of `as_half_heads`: H heads, (B, T, H, K).

    The challenge's form (ablation of entry #640), in which values are halved too; Ye et al. 2024 (arXiv
    2410.05258) keep whole values and only the difference.
    """
    first_BTGRh, second_BTGRh = y_BTNh.unflatten(2, (groups, 2, -1)).unbind(3)
    second_BTGRh = factor_1.to(y_BTNh.dtype) * second_BTGRh
    both = torch.cat([first_BTGRh - second_BTGRh, first_BTGRh + second_BTGRh], dim=-1)
    return both.flatten(2, 3)
