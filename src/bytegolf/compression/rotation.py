"""The orthonormal Walsh-Hadamard rotation of a matrix's columns, which spreads outliers over their whole row.

C columns (inputs). Q is block-diagonal; its blocks are the Walsh-Hadamard matrices H_n / √n of the largest
power of two n that divides C, with H_2n = [[H_n, H_n], [H_n, -H_n]]. Q is symmetric and its own inverse, so
one function rotates and rotates back. Pull requests 1695, 1898 and 2143 of the 16 MB challenge; rotation
before rounding: Ashkboos et al. 2024 (QuaRot), arXiv 2404.00456.
"""

import torch
from torch import Tensor


def block_of(columns: int) -> int:
    """The width n of Q's blocks: the largest power of two that divides the number of columns."""
    return columns & -columns


def rotated(weight_RC: Tensor) -> Tensor:
    """W Q of a matrix (..., R, C), in its own precision, by O(R C log n) sums.

    Sums and differences of two numbers each, always in the same order: every device gives the same bits, and
    a row's do not depend on the rows beside it, as those of a matrix product would.
    """
    block = block_of(weight_RC.shape[-1])
    values = weight_RC.reshape(-1, block)
    half = 1
    while half < block:
        pairs = values.view(len(values), -1, 2, half)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        values = torch.stack((first + second, first - second), dim=2)
        half *= 2
    return values.reshape(weight_RC.shape) * block**-0.5
