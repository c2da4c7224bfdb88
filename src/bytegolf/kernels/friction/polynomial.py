"""The fidelity without logarithms and powers, for kernels: a quotient and a short polynomial."""

import functools

import numpy as np

#: Of the polynomial. One more would halve an error that rounding to 16 bits hides as it is.
_DEGREE = 3


#: The largest relative error of μ that is worth its speed.
_ENOUGH = 1e-3


@functools.cache
def fidelity_polynomial(exponent: float) -> tuple[float, ...] | None:
    """Q with μ(η) ≈ z Q(z (1 − z)), z = η / (1 + η), lowest power first; None where no Q is good enough.

    μ/z = (1 + η) / (1 + ηⁿ)^(1/n) is the same for η and 1/η, so it is a function of m = z (1 − z), 0 to 1/4,
    and nearly straight, so that three powers do: within 4 · 10⁻⁴ for n = 1.25, a fifth of what rounding
    to bfloat16 takes. Lawson's iterated least squares, for the smallest largest relative error.
    """
    places = 0.125 - 0.125 * np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)
    z = 0.5 - np.sqrt(0.25 - places)
    eta_bits = np.log2(z) - np.log2(1.0 - z)
    exact = np.exp2(-np.log2(1.0 - z) - np.logaddexp2(0.0, exponent * eta_bits) / exponent)
    powers = np.vander(4.0 * places, _DEGREE + 1, increasing=True) / exact[:, None]
    weights = np.full(len(places), 1.0 / len(places))
    for _ in range(200):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(powers * root[:, None], root, rcond=None)[0]
        errors = np.abs(powers @ found - 1.0)
        if errors.max() < 1e-9:
            break
        weights *= errors / (weights * errors).sum()
    if errors.max() > _ENOUGH:
        return None
    return tuple(float(value) for value in found * 4.0 ** np.arange(_DEGREE + 1))
