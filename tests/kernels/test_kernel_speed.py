"""benchmarks/kernel_speed.py on a toy: every kernel, rival and tile is checked and timed."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fused_device import DEVICE, PLAIN, ROUNDING, TYPES, error, needs_fused
from torch import Tensor

from bytegolf.kernels.capped_loss.reference import capped_cross_entropy

Script = Callable[[str], ModuleType]


def test_every_kernel_is_checked_and_timed(
    benchmark_script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "speed.json"
    sizes = {"tokens": 131, "width": 48, "vocabulary": 300, "hidden": 150, "repeats": 2, "out": out}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["kernel_speed.py", *words])
    script = benchmark_script("kernel_speed")
    # On a GPU their compilation would take minutes.
    monkeypatch.setattr(script, "TILES", script.TILES[:1])
    monkeypatch.setattr(script.Bench, "compiled", lambda _, function: function)
    script.main()
    result = json.loads(out.read_text())
    assert result["environment"]["date"]
    rows = [row for row in result["rows"] if "tiles" not in row]
    assert {row["kernel"] for row in rows} == {"capped_loss", "activated_projection", "orthogonal"}
    for row in rows:
        assert row["forward_ms"] > 0
        if "error" in row:
            # Newton-Schulz runs in 16 bits on a GPU.
            assert row["error"] < (0.1 if row["kernel"] == "orthogonal" else 2e-2)
            assert all(error < 2e-2 for error in row.get("gradient_errors", []))
        if "floor_ms" in row:
            assert row["both_ms"] > 0


def marked(test: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_fused:
        test = mark(test)
    return test


@marked
def test_tiles_are_timed_by_addresses_and_descriptors_and_agree(
    benchmark_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = benchmark_script("kernel_speed")
    options = argparse.Namespace(tokens=131, width=48, vocabulary=300, hidden=150, repeats=1)
    bench = script.Bench(options)
    bench.fused, bench.dtype = True, TYPES[-1]
    described = next(tiles for tiles in script.TILES if tiles.descriptors)
    monkeypatch.setattr(script, "TILES", (script.TILES[0], described))
    rows = list(script.tile_rows(bench))
    assert {row["kernel"] for row in rows} == {"losses", "logit_gradients", "squared", "leaky_squared"}
    assert {row["tiles"]["descriptors"] for row in rows} == {False, True}
    for row in rows:
        assert row["difference"] < 1e-2
        assert row["forward_ms"] > 0


@marked
@pytest.mark.parametrize("rival", ["stored_logits_cross_entropy", "remade_logits_cross_entropy"])
def test_rivals_give_the_losses_and_gradients_of_the_plain_form(
    benchmark_script: Script, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    rivals = benchmark_script("stored_logits")
    # Two slabs, the last of them short.
    monkeypatch.setattr(rivals.fused, "_SLAB", 64 * 70)
    torch.manual_seed(0)
    leaves = [torch.randn(n, 48).to(DEVICE, PLAIN).requires_grad_() for n in (101, 70)]
    targets, weights = torch.randint(0, 70, (101,)).to(DEVICE), torch.rand(101).to(DEVICE)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    losses = getattr(rivals, rival)(*leaves, targets, 5.0)
    expected = capped_cross_entropy(exact[0], exact[1], None, targets, 5.0)
    assert error(losses, expected) < ROUNDING
    gradients: tuple[Tensor, ...] = torch.autograd.grad(losses, leaves, weights)
    for a, b in zip(gradients, torch.autograd.grad(expected, exact, weights.double()), strict=True):
        assert error(a, b) < ROUNDING
