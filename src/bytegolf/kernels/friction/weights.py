"""What the edges of a tile weigh, on GPUs: w(x) and dw/dx of `gate.Rule`, or eˣ.

Most edges of a tile weigh nothing, even where the tile has some. By `ptx.gate_ptx`, where the rule has it, a
warp looks at a few edges at a time and computes nothing if all of them are cut.
"""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

from bytegolf.kernels.friction.hardware import INTERPRETED, MOST, log2, quotient
from bytegolf.kernels.friction.ptx import AT_ONCE

MU: tl.constexpr = tl.constexpr(0)
ETA_MU: tl.constexpr = tl.constexpr(1)
LOG_DOMAIN: tl.constexpr = tl.constexpr(2)
SOFTMAX: tl.constexpr = tl.constexpr(3)
_AT_ONCE: tl.constexpr = tl.constexpr(AT_ONCE)
#: Outputs, which are written before all is read, then inputs.
_OPERANDS: tl.constexpr = tl.constexpr(",".join(["=&f"] * AT_ONCE + ["f"] * AT_ONCE))
_MORE_OPERANDS: tl.constexpr = tl.constexpr(",".join(["=&f"] * 2 * AT_ONCE + ["f"] * AT_ONCE))


@triton.jit
def _by_logarithms(eta, EXPONENT: tl.constexpr):
    """μ and its slope as `gate.fidelity` and `gate.fidelity_slope` have them."""
    rho = tl.minimum(eta, quotient(tl.full(eta.shape, 1.0, tl.float32), tl.maximum(eta, 1.0)))
    # Of 0 there is no logarithm; what is below 2⁻¹²⁶ is lost beside 1 either way.
    rho_bits = log2(tl.maximum(rho, 1.0 / MOST))
    sum_bits = log2(1.0 + tl.exp2(rho_bits * EXPONENT))
    mu = tl.minimum(eta, 1.0) * tl.exp2(sum_bits * (-1.0 / EXPONENT))
    below = tl.where(eta > 1.0, rho_bits * (EXPONENT + 1.0), 0.0)
    return mu, tl.exp2(below - sum_bits * (1.0 + 1.0 / EXPONENT))


@triton.jit
def _weights_and_slopes(x, GATE: tl.constexpr):
    """For any rule, and computed for every edge."""
    # Above 2¹²⁶ the fidelity ends: the hardware's quotients do.
    eta = tl.maximum(x, 0.0)
    if GATE.form == LOG_DOMAIN:
        decay = tl.exp2(eta * (-1.4426950408889634 * GATE.exponent))
        w = tl.where(x > 0, tl.exp2(log2(1.0 + decay) * (-1.0 / GATE.exponent)), 0.0)
        slope = w * quotient(decay, 1.0 + decay)
    elif GATE.form == SOFTMAX:
        w = tl.exp2(x * 1.4426950408889634)
        slope = w
    else:
        w, slope = _by_logarithms(eta, GATE.exponent)
        if GATE.form == ETA_MU:
            slope = tl.fma(eta, slope, w)
            w = eta * w
        slope = tl.where(x > 0, slope, 0.0)
    return w, slope


@triton.jit
def weights(x, GATE: tl.constexpr):
    """w(x) alone: see `weights_and_slopes`."""
    if GATE.weights_ptx != "" and not INTERPRETED:
        w = tl.inline_asm_elementwise(
            GATE.weights_ptx,
            _OPERANDS,
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=_AT_ONCE,
        )
    else:
        w, _ = _weights_and_slopes(x, GATE)
    return w


@triton.jit
def weights_and_slopes(x, GATE: tl.constexpr):
    """w(x) and dw/dx: see `gate.plain_weights` and `gate.plain_slopes`; eˣ for a softmax."""
    if GATE.weights_ptx != "" and not INTERPRETED:
        w, slope = tl.inline_asm_elementwise(
            GATE.slopes_ptx,
            _MORE_OPERANDS,
            [x],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=_AT_ONCE,
        )
    else:
        w, slope = _weights_and_slopes(x, GATE)
    return w, slope
