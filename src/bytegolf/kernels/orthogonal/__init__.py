"""The nearest semi-orthogonal matrix, approximately: Newton-Schulz iterations on batches of matrices."""

from bytegolf.kernels.orthogonal.reference import (
    CLASSIC,
    POLAR_EXPRESS,
    Coefficients,
    classic,
    orthogonalize,
)

__all__ = ["CLASSIC", "POLAR_EXPRESS", "Coefficients", "classic", "orthogonalize"]
