"""Newton-Schulz iterations in the space of the smaller Gram matrix.

Shapes: M matrices of R rows and C columns; K = min(R, C), L = max(R, C).

Every iterate of X ← Z X with Z = a + b A + c A², A = X Xᵀ, is a polynomial of the first A times the first X.
So the K × K matrices alone can be iterated, A ← Z A Z and Q ← Q Z, and X is multiplied once: X ← Q X. The
form of the 16 MB challenge's PR 1674 and PR 1728.
"""

import torch
from torch import Tensor

from bytegolf.kernels.orthogonal.reference import Coefficients

#: Iterations until Q is multiplied out and A computed afresh (PR 1728: before the third of four). In exact
#: arithmetic it changes nothing. In bfloat16 A drifts from Q X (Q X)ᵀ: never afresh the result is
#: noise on spectra that fall like 1/k, once in five iterations its largest singular value reaches 1.5.
_ITERATIONS_PER_GRAM = 2


def gram_orthogonalize(g_MRC: Tensor, coefficients: Coefficients, *, dtype: torch.dtype) -> Tensor:
    """What `orthogonalize` gives, by way of Gram matrices: fewer operations the longer the matrices are.

    For two iterations 5 K³ + 2 K² L multiplications instead of 2 K³ + 4 K² L: fewer where L > 1.5 K.
    """
    x_MKL = g_MRC.to(dtype)
    tall = x_MKL.shape[-2] > x_MKL.shape[-1]
    if tall:
        x_MKL = x_MKL.mT
    x_MKL = x_MKL / (x_MKL.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for first in range(0, len(coefficients), _ITERATIONS_PER_GRAM):
        triples = coefficients[first : first + _ITERATIONS_PER_GRAM]
        x_MKL = _iterated(x_MKL @ x_MKL.mT, triples) @ x_MKL
    return (x_MKL.mT if tall else x_MKL).to(g_MRC.dtype)


def _iterated(gram_MKK: Tensor, triples: Coefficients) -> Tensor:
    """The product Q of the factors Z of these iterations, whose first A is `gram_MKK`."""
    q_MKK: Tensor | None = None
    for index, (a, b, c) in enumerate(triples):
        z_MKK = torch.baddbmm(gram_MKK, gram_MKK, gram_MKK, beta=b, alpha=c)
        z_MKK.diagonal(dim1=-2, dim2=-1).add_(a)
        q_MKK = z_MKK if q_MKK is None else q_MKK @ z_MKK
        if index + 1 < len(triples):
            gram_MKK = z_MKK @ gram_MKK @ z_MKK
    assert q_MKK is not None
    return q_MKK
