"""Newton-Schulz iterations towards U Vᵀ of G = U S Vᵀ.

Shapes: M matrices, R rows, C columns. The coefficients are published constants: the classic triple by
Jordan et al. (Muon, 2024), the five triples of Polar Express by Amsel et al. (2025, arXiv 2505.16932),
with the safety factor used in the 16 MB challenge.
"""

import torch
from torch import Tensor

#: One (a, b, c) per iteration: X ← a X + (b A + c A²) X with A = X Xᵀ.
Coefficients = tuple[tuple[float, float, float], ...]

_CLASSIC_TRIPLE = (3.4445, -4.7750, 2.0315)


def classic(steps: int) -> Coefficients:
    """The classic triple, `steps` times. Any number serves: each iteration is the same."""
    return (_CLASSIC_TRIPLE,) * steps


CLASSIC: Coefficients = classic(5)

# The triples belong together in this order: the first ones inflate small singular values, the last
# ones settle. Dropping the last leaves singular values in 0.42..1.58 instead of 0.86..1.14.
POLAR_EXPRESS: Coefficients = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(g_MRC: Tensor, coefficients: Coefficients, *, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of each matrix, computed in `dtype`, returned in the input's type, (M, R, C).

    Singular values end near 1 (0.7..1.2 classic, 0.86..1.14 Polar Express, for a Gaussian 512 × 2048).
    A zero matrix stays zero.
    """
    x = g_MRC.to(dtype)
    # Iterate on the smaller Gram matrix.
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g_MRC.dtype)
