"""The recipe's part on compression survives JSON and refuses what cannot work."""

import pytest

from bytegolf import tree
from bytegolf.compression.floats import Float8, Float16
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FitBytes, FixedBits, Noise, RoleGrid
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import RecipeError
from bytegolf.model.roles import Role

_MIXED = FixedBits(Grid(6, StandardDeviations(12.85)), (RoleGrid(Role.EMBEDDING, Grid(8)),))


@pytest.mark.parametrize(
    "spec",
    [
        Compression(),
        Compression(_MIXED, quantization_aware_from=0.5),
        Compression(FitBytes((Grid(8), Grid(4))), budget_bytes=1_000_000),
        Compression(FitBytes(), budget_bytes=16_000_000, passthrough_elements=0),
        Compression(FixedBits(Ternary(64), (RoleGrid(Role.EMBEDDING, Float8()),)), noise=Noise(0.2)),
        Compression(FitBytes((Binary(), Ternary(), Float16())), budget_bytes=10**6, prune_to_fit=True),
        Compression(noise=Noise(0.1, (Role.MLP_UP, Role.HEAD), looped_only=True), prune=0.03),
        Compression(gates=Grid(8, rotated=True), correction=LowRankCorrection(rank=2, largest="norm")),
        Compression(FitBytes((Grid(5),), between=False, by_depth=False), budget_bytes=10**6),
    ],
)
def test_specs_survive_json(spec: Compression) -> None:
    assert tree.from_json(Compression, tree.to_json(spec)) == spec


def test_fixed_bits_give_every_role_but_scalar_and_gate_a_grid() -> None:
    grids = _MIXED.grids()
    assert grids.keys() == {str(role) for role in Role} - {"scalar", "gate"}
    assert grids["embedding"] == Grid(8)
    assert grids["mlp_up"] == Grid(6, StandardDeviations(12.85))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Compression(FitBytes()), "needs budget_bytes"),
        (lambda: Compression(budget_bytes=0), "budget_bytes is 0"),
        (lambda: Compression(quantization_aware_from=1.0), "quantization_aware_from is 1"),
        (lambda: Compression(quantization_aware_from=float("nan")), "quantization_aware_from is nan"),
        (lambda: Compression(passthrough_elements=-1), "passthrough_elements is -1"),
        (lambda: Compression(prune=1.0), "prune is 1"),
        (lambda: Compression(FixedBits(Binary()), prune=0.1), "no zeros"),
        (lambda: Compression(FitBytes((Grid(4), Binary())), 10**6, prune=0.1), "no zeros"),
        (lambda: Compression(prune_to_fit=True), "prune_to_fit needs budget_bytes"),
        (lambda: Noise(1.0), "noise.start is 1"),
        (lambda: Noise(roles=()), "noise.roles"),
        (lambda: Noise(roles=(Role.SCALAR,)), "noise.roles"),
        (lambda: Compression(FixedBits(Grid(6, rotated=True)), prune=0.1), "rotated grids keep no zeros"),
        (lambda: RoleGrid(Role.GATE, Grid(8)), r"compression\.gates"),
        (lambda: FitBytes(()), "no grid"),
        (lambda: RoleGrid(Role.SCALAR, Grid(8)), "scalar"),
        (lambda: FixedBits(Grid(8), (RoleGrid(Role.HEAD, Grid(8)),) * 2), "twice"),
    ],
)
def test_what_cannot_work_is_refused(make, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()
