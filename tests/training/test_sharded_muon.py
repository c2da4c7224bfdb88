"""Parallel Muon does what the plain form does, and each rank holds only its share."""

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import launch
from toy_training import TRAINING, changed, finished, same_bits, trainer

from bytegolf.model.roles import MATRIX_ROLES, parameter_roles
from bytegolf.training.loop import Progress, Trainer
from bytegolf.training.muon import Muon, MuonOptimizer
from bytegolf.training.ranks import Ranks
from bytegolf.training.schedule import Taper
from bytegolf.training.sharded_muon import ShardedMuonOptimizer
from bytegolf.training.spec import Training


def spec(*, sharded: bool, **values: Any) -> Training:
    """Two passes a rank, whose gradients add up."""
    matrices = Muon(
        0.02,
        momentum_steps=6,
        weight_decay=0.1,
        equalize_rows=True,
        sharded=sharded,
        gram_above=1.5,
        decay_taper=Taper(start=0.3),
        cautious=True,
        second_moment=0.9,
    )
    optimizers = dataclasses.replace(TRAINING.optimizers, matrices=matrices)
    return changed(rows=4, forward_rows=1, optimizers=optimizers, **values)


#: A bound that every step's norm is far above, and none.
CLIPS = {"clipped": 0.05, "unclipped": None}


def trained(ranks: Ranks, settings: Training, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Everything the forms are compared by, and the state half-way."""
    toy = trainer(settings, ranks=ranks, dtype=dtype)
    reports: list[Progress] = []
    result: dict[str, Any] = {}

    def watch(progress: Progress) -> None:
        reports.append(progress)
        if progress.step == 5:
            result["half"] = copy.deepcopy(toy.state_dict())

    toy.watch = watch
    finished(toy)
    result["norms"] = [report.gradient_norm for report in reports]
    result["nats"] = [report.loss for report in reports]
    result["state"] = toy.state_dict()
    return result


def resumed(ranks: Ranks, settings: Training, state: dict[str, Any]) -> dict[str, Any]:
    """The state in the end of a training that goes on from `state`."""
    toy = trainer(settings, ranks=ranks)
    toy.load_state_dict(copy.deepcopy(state))
    return finished(toy).state_dict()


def shared_gradients(ranks: Ranks, clip: float | None) -> dict[str, Any]:
    """This rank's gradients after the exchange, by name, and their common norm."""
    toy = trainer(spec(sharded=True), ranks=ranks)
    totals = toy._accumulate_gradients(toy.batches.batch(0)).reshape(1)
    toy.optimizers.reduce_gradients(totals, clip)
    norm = toy.optimizers.gradient_norm()
    gradients = {}
    names = {id(parameter): name for name, parameter in toy.model.named_parameters()}
    for parameter in toy.optimizers._replicated:
        assert parameter.grad is not None
        gradients[names[id(parameter)]] = parameter.grad.clone()
    for shape in sharded_of(toy)._shapes:
        for parameter, gradient in zip(shape.own, shape.gradients(), strict=False):
            gradients[names[id(parameter)]] = gradient.clone()
    return {"gradients": gradients, "norm": float(norm), "nats": totals}


def sharded_of(toy: Trainer) -> ShardedMuonOptimizer:
    (optimizer,) = (o for o in toy.optimizers.optimizers if isinstance(o, ShardedMuonOptimizer))
    return optimizer


def held(ranks: Ranks) -> list[int]:
    """How many elements of momentum a rank holds, and how many there are."""
    optimizer = sharded_of(trainer(spec(sharded=True), ranks=ranks))
    own = sum(state["momentum"].numel() for state in optimizer.state.values())
    return [own, sum(parameter.numel() for parameter in optimizer.parameters)]


def with_missing_gradients(ranks: Ranks, kind: type[MuonOptimizer]) -> list[torch.Tensor]:
    """Weights after four steps in which some matrices have no gradient, the last one never."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (6, 4), (4, 6), (6, 4), (5, 5)]

    def random(shape: tuple[int, int]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = [torch.nn.Parameter(random(shape)) for shape in shapes]
    optimizer = kind(weights, Muon(0.1, weight_decay=0.2), ranks, torch.float64)
    for step in range(4):
        for index, weight in enumerate(weights):
            gradient = random(shapes[index]) / ranks.world
            weight.grad = None if (step + index) % 3 == 0 or index == 4 else gradient
            if weight.grad is not None and not isinstance(optimizer, ShardedMuonOptimizer):
                ranks.sum_([weight.grad])
        if isinstance(optimizer, ShardedMuonOptimizer):
            optimizer.start_reduction()
        optimizer.step()
    return [weight.detach() for weight in weights]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.start("cpu")
    result: dict[str, Any] = {}
    for name, clip in CLIPS.items():
        settings = spec(sharded=True, clip=clip)
        result[name] = trained(ranks, settings)
        result[name, "again"] = trained(ranks, settings)["state"]
        result[name, "plain"] = trained(ranks, spec(sharded=False, clip=clip))
        result[name, "resumed"] = resumed(ranks, settings, result[name]["half"])
        result[name, "from one"] = resumed(
            ranks, settings, torch.load(folder / f"{name}.pt", weights_only=True)
        )
        result[name, "gradients"] = shared_gradients(ranks, clip)
    for form in (True, False):
        run = trained(ranks, spec(sharded=form, clip=None), torch.bfloat16)
        result["bfloat16", form] = run["state"]
    result["held"] = held(ranks)
    result["missing"] = with_missing_gradients(ranks, ShardedMuonOptimizer)
    torch.save(result, folder / f"rank-{ranks.rank}.pt")
    ranks.stop()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: trained(Ranks(), spec(sharded=True, clip=clip)) for name, clip in CLIPS.items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, dict[str, Any]]) -> list[dict[Any, Any]]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("sharded")
    for name, result in alone.items():
        torch.save(result["half"], folder / f"{name}.pt")
    launch(__file__, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def close(ours: Any, expected: Any, tolerance: float) -> bool:
    """Whether two nested states agree, tensors and numbers to a relative tolerance (seconds aside)."""
    if isinstance(expected, torch.Tensor):
        return float((ours - expected).norm()) <= tolerance * float(expected.norm())
    if isinstance(expected, dict):
        return set(ours) == set(expected) and all(
            close(ours[key], expected[key], tolerance) for key in expected if key != "seconds"
        )
    if isinstance(expected, list | tuple):
        return len(ours) == len(expected) and all(
            close(a, b, tolerance) for a, b in zip(ours, expected, strict=True)
        )
    return ours == pytest.approx(expected, rel=tolerance) if isinstance(expected, float) else ours == expected


CLIPPED = pytest.mark.parametrize("name", CLIPS)


@CLIPPED
def test_two_ranks_equal_one_process_and_the_plain_form(
    both: list[dict[Any, Any]], alone: dict[str, dict[str, Any]], name: str
) -> None:
    for expected in (alone[name], both[0][name, "plain"]):
        assert close(both[0][name], expected, 1e-9)
    assert both[0][name]["state"]["step"] == 10


@CLIPPED
def test_both_ranks_hold_the_same_bits_and_repeat_them(both: list[dict[Any, Any]], name: str) -> None:
    assert same_bits(both[0][name], both[1][name])
    assert same_bits(both[0][name]["state"], both[0][name, "again"])


@CLIPPED
def test_each_matrix_arrives_summed_and_clipped_at_its_owner(both: list[dict[Any, Any]], name: str) -> None:
    toy = trainer(spec(sharded=False))
    nats = toy._accumulate_gradients(toy.batches.batch(0))
    toy.optimizers.reduce_gradients(nats, CLIPS[name])
    norm = float(toy.optimizers.gradient_norm())
    assert norm > 2 * (CLIPS["clipped"] or 0.0)
    owners: dict[str, int] = {}
    for rank in both:
        found = rank[name, "gradients"]
        assert found["norm"] == pytest.approx(norm, rel=1e-12)
        assert float(found["nats"]) == pytest.approx(float(nats), rel=1e-12)
        for parameter, gradient in found["gradients"].items():
            expected = toy.model.get_parameter(parameter).grad
            assert expected is not None
            assert float((gradient - expected).norm()) <= 1e-12 * float(expected.norm())
            owners[parameter] = owners.get(parameter, 0) + 1
    roles = parameter_roles(toy.model)
    assert owners == {parameter: 1 if role in MATRIX_ROLES else 2 for parameter, role in roles.items()}


@CLIPPED
def test_a_resumed_run_reaches_the_bits_of_an_unbroken_one(both: list[dict[Any, Any]], name: str) -> None:
    assert same_bits(both[0][name, "resumed"], both[0][name]["state"])


@CLIPPED
def test_a_checkpoint_fits_any_number_of_ranks_and_either_form(
    both: list[dict[Any, Any]], alone: dict[str, dict[str, Any]], name: str
) -> None:
    assert close(both[0][name, "from one"], alone[name]["state"], 1e-9)
    for form in (True, False):
        back = resumed(Ranks(), spec(sharded=form, clip=CLIPS[name]), both[0][name]["half"])
        assert close(back, alone[name]["state"], 1e-9)


def test_momentum_is_shared_out(both: list[dict[Any, Any]]) -> None:
    (first, total), (second, _) = (rank["held"] for rank in both)
    assert first + second == total
    assert 0 < second <= first < 0.6 * total


def test_in_bfloat16_the_results_travel_without_loss(both: list[dict[Any, Any]]) -> None:
    assert same_bits(both[0]["bfloat16", True], both[0]["bfloat16", False])


def test_a_matrix_without_gradient_is_left_alone(both: list[dict[Any, Any]]) -> None:
    expected = with_missing_gradients(Ranks(), MuonOptimizer)
    for rank in both:
        for ours, plain in zip(rank["missing"], expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
