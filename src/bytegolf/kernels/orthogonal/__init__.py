"""The nearest semi-orthogonal matrix, approximately: Newton-Schulz iterations on batches of matrices.

Bodies: `reference` (the plain iteration) and `gram` (the same by way of Gram matrices, less work for long
matrices). The caller chooses: their rounding differs.
"""

from bytegolf.kernels.orthogonal.gram import gram_orthogonalize
from bytegolf.kernels.orthogonal.reference import (
    CLASSIC,
    POLAR_EXPRESS,
    Coefficients,
    classic,
    orthogonalize,
)

__all__ = ["CLASSIC", "POLAR_EXPRESS", "Coefficients", "classic", "gram_orthogonalize", "orthogonalize"]
