"""The gate's PTX, run here instruction by instruction in float32, for the lanes of a warp."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bytegolf.kernels.friction.gate import Rule, plain_slopes, plain_weights
from bytegolf.kernels.friction.ptx import AT_ONCE, gate_ptx

LANES = 32
#: From cut by far to far above the threshold, what is next to it, and what is no number.
SCORES = np.concatenate(
    [
        -np.logspace(-37, 38, 60),
        np.logspace(-37, 37, 300),
        np.linspace(-3.0, 12.0, 300),
        [0.0, -0.0, np.inf, -np.inf, np.nan],
    ]
).astype(np.float32)
RULES = [Rule("mu"), Rule("eta_mu"), Rule("eta_mu", capacity=4.0), Rule("mu", exponent=1.0)]
Row = np.ndarray


def as_float32(x: Row) -> Row:
    return np.asarray(x, dtype=np.float32)


ARITHMETIC: dict[str, Callable[..., Row]] = {
    "mov.f32": lambda x: x,
    "neg.f32": lambda x: -x,
    "max.f32": np.fmax,
    "add.rn.f32": lambda x, y: as_float32(x + y),
    "sub.rn.f32": lambda x, y: as_float32(x - y),
    "mul.rn.f32": lambda x, y: as_float32(x * y),
    # In float64 the product of two float32 is exact, so this rounds once.
    "fma.rn.f32": lambda x, y, z: as_float32(x.astype(np.float64) * y + z),
    "rcp.approx.ftz.f32": lambda x: np.where(x > 2.0**126, np.float32(0.0), as_float32(1.0 / x)),
    "selp.f32": lambda x, y, chosen: np.where(chosen, x, y),
    "setp.gt.f32": lambda x, y: x > y,
    "setp.gt.or.f32": lambda x, y, before: (x > y) | before,
}


def run(ptx: str, inputs: list[Row], outputs: int) -> tuple[list[Row], int]:
    """What it leaves in its outputs, each (lanes,), and how many instructions it took."""
    values: dict[str, Row] = {f"${outputs + index}": row for index, row in enumerate(inputs)}
    taken, here = 0, np.ones(LANES, dtype=bool)

    def value(name: str) -> Row:
        if name.startswith("0f"):
            return np.full(LANES, np.frombuffer(bytes.fromhex(name[2:]), dtype=">f4")[0], dtype=np.float32)
        return values[name]

    lines = ptx.splitlines()
    assert [lines[0], *lines[-2:]] == ["{", "EMPTY:", "}"]
    for line in lines[1:-2]:
        if line.startswith(".reg"):
            continue
        taken += 1
        if jump := re.fullmatch(r"@!(\w+) bra EMPTY;", line):
            # Lanes that jump do nothing until the end; a warp of which all jump takes no time.
            here = values[jump[1]]
            if not here.any():
                break
            continue
        operation, operands = line.rstrip(";").split(" ", 1)
        target, *sources = operands.split(", ")
        made = ARITHMETIC[operation](*map(value, sources))
        values[target] = np.where(here, made, values[target]) if target in values else made
    return [values[f"${index}"] for index in range(outputs)], taken


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_it_makes_the_weights_and_slopes_of_the_rule(rule: Rule, slopes: bool) -> None:
    scores = np.random.default_rng(0).permutation(SCORES)
    scores = np.resize(scores, (-(-len(scores) // (LANES * AT_ONCE)), AT_ONCE, LANES))
    outputs = (2 if slopes else 1) * AT_ONCE
    for part in scores:
        made, _ = run(gate_ptx(rule, slopes=slopes), list(part), outputs)
        x = torch.from_numpy(part.copy())
        weights = torch.from_numpy(np.stack(made[:AT_ONCE]))
        cut = ~(x > 0)
        assert not weights[cut].any()
        assert not torch.signbit(weights[cut]).any()
        # Beyond 2¹²⁶ the hardware has no quotients.
        near = (x > 0) & (x < 1e37)
        expected = plain_weights(x.double(), rule.form, rule.exponent)[near]
        torch.testing.assert_close(weights[near].double(), expected, rtol=1e-3, atol=1e-37)
        if slopes:
            found = torch.from_numpy(np.stack(made[AT_ONCE:]))
            assert not found[cut].any()
            expected = plain_slopes(x.double(), rule.form, rule.exponent)[near]
            torch.testing.assert_close(found[near].double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("slopes", [False, True])
def test_a_warp_without_an_edge_computes_none(slopes: bool) -> None:
    ptx, outputs = gate_ptx(Rule("eta_mu"), slopes=slopes), (2 if slopes else 1) * AT_ONCE
    empty = [np.full(LANES, -1.0, dtype=np.float32) for _ in range(AT_ONCE)]
    made, short = run(ptx, empty, outputs)
    assert not np.any(made)
    empty[-1][-1] = 2.0
    made, long = run(ptx, empty, outputs)
    assert np.count_nonzero(made[:AT_ONCE]) == 1
    assert made[AT_ONCE - 1][-1] > 1.0
    assert short < outputs + AT_ONCE + 4 < long / 3


def test_rules_without_a_good_polynomial_have_none() -> None:
    assert gate_ptx(Rule("log_domain"), slopes=False) == ""
    assert gate_ptx(Rule("eta_mu", exponent=4.0), slopes=True) == ""
