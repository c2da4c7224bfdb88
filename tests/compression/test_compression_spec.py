"""The recipe's part on compression survives JSON and refuses what cannot work."""

import pytest

from bytegolf import tree
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.spec import Compression, FitBytes, FixedBits, RoleGrid
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
    ],
)
def test_specs_survive_json(spec: Compression) -> None:
    assert tree.from_json(Compression, tree.to_json(spec)) == spec


def test_fixed_bits_give_every_role_but_scalar_a_grid() -> None:
    grids = _MIXED.grids()
    assert grids.keys() == {str(role) for role in Role} - {"scalar"}
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
        (lambda: FitBytes(()), "no grid"),
        (lambda: RoleGrid(Role.SCALAR, Grid(8)), "scalar"),
        (lambda: FixedBits(Grid(8), (RoleGrid(Role.HEAD, Grid(8)),) * 2), "twice"),
    ],
)
def test_what_cannot_work_is_refused(make, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()
