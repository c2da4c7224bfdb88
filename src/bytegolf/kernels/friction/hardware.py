"""What the hardware computes in one instruction, less exactly than Triton's own functions."""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from triton.language.extra.cuda import libdevice  # type: ignore[import-not-found]

#: Whether kernels run in Triton's interpreter, which knows no instructions.
INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))
#: The largest number whose reciprocal the hardware does not round to 0.
MOST: tl.constexpr = tl.constexpr(2.0**126)


@triton.jit
def log2(x):
    """The hardware's logarithm of a positive number, within 2⁻²² of it; in one instruction, not in twelve."""
    if INTERPRETED:
        bits = tl.log2(x)
    else:
        bits = libdevice.fast_log2f(x)
    return bits


@triton.jit
def quotient(x, y):
    """The hardware's x/y, within 2⁻²² of it, for 1 ≤ y ≤ 2¹²⁶."""
    if INTERPRETED:
        z = x / y
    else:
        z = libdevice.fast_dividef(x, y)
    return z
