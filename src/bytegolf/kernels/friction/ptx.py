"""The gate in PTX, where a warp that has no edge can leave out what the others compute.

Triton's own language has no branch for a single warp. Of the edges in tiles that have some, two thirds or
more lie in parts of 16 by 16 that have none; and a quotient takes a multiprocessor as long as eight sums.
"""

import functools
import struct

from bytegolf.kernels.friction.gate import Rule
from bytegolf.kernels.friction.polynomial import fidelity_polynomial

#: Edges of a thread that are looked at together: 16 queries by 16 keys of a warp.
AT_ONCE = 8


@functools.cache
def gate_ptx(rule: Rule, *, slopes: bool) -> str:
    """PTX for the weights of `AT_ONCE` edges, and with `slopes` theirs: all +0 in a lane without an edge.

    Operands: the weights, the slopes if asked for, the edges' x. With μ and its slope
    (1 − z)² (Q + z (1 − 2 z) Q′) by `polynomial.fidelity_polynomial`, of scores below 2¹²⁶. Empty for a rule
    that has no such polynomial.
    """
    powers = None if rule.form == "log_domain" else fidelity_polynomial(rule.exponent)
    if powers is None:
        return ""
    outputs = 2 * AT_ONCE if slopes else AT_ONCE
    lines = [".reg .f32 e, y, z, m, r, t;", ".reg .pred some;"]
    lines += [f"mov.f32 ${index}, {_literal(0.0)};" for index in range(outputs)]
    lines.append(f"setp.gt.f32 some, ${outputs}, {_literal(0.0)};")
    lines += [f"setp.gt.or.f32 some, ${outputs + i}, {_literal(0.0)}, some;" for i in range(1, AT_ONCE)]
    lines.append("@!some bra EMPTY;")
    for i in range(AT_ONCE):
        slope = f"${AT_ONCE + i}" if slopes else None
        lines += _of_edge(f"${outputs + i}", f"${i}", slope, rule.form == "eta_mu", powers)
    return "\n".join(["{", *lines, "EMPTY:", "}"])


def _of_edge(x: str, w: str, slope: str | None, eta_mu: bool, powers: tuple[float, ...]) -> list[str]:
    """For one edge. e: η, or 0 where the edge is cut; r: 1 / (1 + η) = 1 − z; z: η r; m: z r."""
    c0, c1, c2, c3 = (_literal(c) for c in powers)
    zero = _literal(0.0)
    lines = [
        f"max.f32 e, {x}, {zero};",
        f"add.rn.f32 y, e, {_literal(1.0)};",
        "rcp.approx.ftz.f32 r, y;",
        "mul.rn.f32 z, e, r;",
        "mul.rn.f32 m, z, r;",
        f"fma.rn.f32 y, m, {c3}, {c2};",
        f"fma.rn.f32 y, y, m, {c1};",
        f"fma.rn.f32 y, y, m, {c0};",
        f"mul.rn.f32 {w}, z, y;",
    ]
    if slope is not None:
        lines += [
            f"fma.rn.f32 t, m, {_literal(3.0 * powers[3])}, {_literal(2.0 * powers[2])};",
            f"fma.rn.f32 t, t, m, {c1};",
            "sub.rn.f32 m, r, z;",
            "mul.rn.f32 m, m, z;",
            "fma.rn.f32 y, m, t, y;",
            "mul.rn.f32 r, r, r;",
            "mul.rn.f32 y, r, y;",
        ]
        if eta_mu:
            lines.append(f"fma.rn.f32 y, e, y, {w};")
        # μ rises from 0 with slope 1, but to what is cut nothing comes back.
        lines += [f"setp.gt.f32 some, {x}, {zero};", f"selp.f32 {slope}, y, {zero}, some;"]
    if eta_mu:
        lines.append(f"mul.rn.f32 {w}, e, {w};")
    return lines


def _literal(number: float) -> str:
    """A float32 as PTX writes it."""
    return "0f" + struct.pack(">f", number).hex().upper()
