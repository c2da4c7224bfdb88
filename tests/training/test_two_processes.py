"""Two processes compute what one does."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import launch
from toy_training import Clock, changed, finished, same_bits, trainer

from bytegolf.training.budget import Budget
from bytegolf.training.loop import Progress, QueuedStep, Trainer
from bytegolf.training.ranks import Ranks
from bytegolf.training.signals import Interrupted
from bytegolf.training.spec import Training

#: Four rows: each rank's passes hold other rows than those of one process.
SPEC = changed(rows=4, forward_rows=2)
SECONDS = changed(
    budget=Budget(seconds=20.0), rows=4, forward_rows=4, checkpoint_seconds=3.0, validate_at=(0.3, 0.6)
)


def trained(ranks: Ranks, spec: Training = SPEC) -> dict[str, Any]:
    """Everything the processes are compared by."""
    toy = trainer(spec, ranks=ranks)
    batches = [toy.batches.batch(step) for step in range(5)]
    toy._accumulate_gradients(batches[0])
    gradients = {name: p.grad for name, p in toy.model.named_parameters() if p.grad is not None}
    ranks.sum_(gradients.values())
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    toy.model.zero_grad()
    reports: list[Progress] = []
    toy.watch = reports.append
    finished(toy)
    return {
        "ids": [batch.ids_BT for batch in batches],
        "targets": [batch.targets_BT for batch in batches],
        "starts": [batch.starts_BT for batch in batches],
        "bytes": [batch.bytes for batch in batches],
        "gradients": gradients,
        "tokens": [report.tokens for report in reports],
        "nats": [report.loss for report in reports],
        "bits": [report.bits_per_byte for report in reports],
        "norms": [report.gradient_norm for report in reports],
        "state": toy.state_dict(),
    }


def by_the_clock(ranks: Ranks, folder: Path, *, ahead: bool = False) -> dict[str, Any]:
    """A budget of seconds where the ranks' clocks differ widely: only the lead's may count."""
    clock = Clock()
    validated: list[int] = []
    toy: Trainer = trainer(
        SECONDS,
        folder,
        ranks=ranks,
        clock=clock,
        validate=lambda: validated.append(toy.step) or (1.0, 1.0),  # type: ignore[func-returns-value]
    )
    toy.ahead = ahead
    original = toy._one_step

    def one_step(batch: Any, *factors: float) -> QueuedStep:
        clock.now += 1.0 + 2.5 * ranks.rank
        return original(batch, *factors)

    toy._one_step = one_step  # type: ignore[method-assign]
    finished(toy)
    return {"step": toy.step, "validated": validated, "state": toy.state_dict()}


def interrupted_elsewhere(ranks: Ranks, folder: Path, *, ahead: bool = False) -> int:
    """Only rank 1 is asked to stop; the step at which each rank did."""
    toy = trainer(SPEC, folder, ranks=ranks)
    toy.ahead = ahead
    toy.watch = lambda progress: (
        signal.raise_signal(signal.SIGTERM) if progress.step == 4 and ranks.rank == 1 else None
    )
    with pytest.raises(Interrupted):
        finished(toy)
    return toy.step


def met_again(ranks: Ranks) -> list[str]:
    """What the lead says in each of three groups; it leaves every one after the other rank has left."""
    heard = []
    for number in range(3):
        heard.append(ranks.from_lead(f"group {number}" if ranks.leads else ""))
        if ranks.leads:
            time.sleep(0.5)
        ranks.stop()
        ranks = Ranks.start("cpu")
    return heard


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.start("cpu")
    assert (ranks.rank, ranks.world) == (int(os.environ["RANK"]), 2)
    for name in ("clock", "clock ahead", "signal", "signal ahead"):
        (folder / name).mkdir(exist_ok=True)
    ranks.barrier()
    result = {
        "run": trained(ranks),
        "again": trained(ranks)["state"],
        "clock": by_the_clock(ranks, folder / "clock"),
        "clock ahead": by_the_clock(ranks, folder / "clock ahead", ahead=True),
        "signal": interrupted_elsewhere(ranks, folder / "signal"),
        "signal ahead": interrupted_elsewhere(ranks, folder / "signal ahead", ahead=True),
        "gathered": ranks.gather(torch.full((2, 3), float(ranks.rank)).bfloat16()),
        "agreed": ranks.lead_and_any(10.0 - ranks.rank, ranks.rank == 1),
        "heard": met_again(ranks),
        "compiler": "torch._dynamo" in sys.modules,
    }
    torch.save(result, folder / f"rank-{ranks.rank}.pt")
    ranks.stop()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(__file__, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return trained(Ranks())


def test_batches_and_counts_are_equal_to_the_bit(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for name in ("ids", "targets", "starts"):
        for step, whole in enumerate(alone[name]):
            assert torch.equal(torch.cat([rank["run"][name][step] for rank in both]), whole)
    counts = [sum(parts) for parts in zip(*(rank["run"]["bytes"] for rank in both), strict=True)]
    assert counts == alone["bytes"]
    assert both[0]["run"]["tokens"] == both[1]["run"]["tokens"] == alone["tokens"]


def test_gradients_agree(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert set(both[0]["run"]["gradients"]) == set(alone["gradients"])
    for name, gradient in alone["gradients"].items():
        ours = both[0]["run"]["gradients"][name]
        assert torch.equal(ours, both[1]["run"]["gradients"][name])
        assert float((ours - gradient).norm()) <= 1e-12 * float(gradient.norm())
    assert any(gradient.any() for gradient in alone["gradients"].values())


def test_parameters_agree_after_ten_steps(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    state = alone["state"]
    assert state["step"] == 10
    for name, value in state["model"].items():
        assert float((both[0]["run"]["state"]["model"][name] - value).norm()) <= 1e-9 * float(value.norm())
    for name, value in state["average"]["sums"].items():
        ours = both[0]["run"]["state"]["average"]["sums"][name]
        assert float((ours - value).norm()) <= 1e-9 * float(value.norm())
    for name in ("nats", "bits", "norms"):
        assert both[0]["run"][name] == pytest.approx(alone[name], rel=1e-9)


def test_both_ranks_hold_the_same_bits(both: list[dict[str, Any]]) -> None:
    assert same_bits(both[0]["run"]["state"], both[1]["run"]["state"])
    assert both[0]["run"]["nats"] == both[1]["run"]["nats"]


def test_repeated_runs_are_equal_to_the_bit(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert same_bits(both[0]["run"]["state"], both[0]["again"])
    assert same_bits(trained(Ranks())["state"], alone["state"])


@pytest.mark.parametrize("name", ["clock", "clock ahead"])
def test_only_the_leads_clock_decides(both: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    assert both[0][name]["step"] == both[1][name]["step"] == 20
    assert both[0][name]["validated"] == both[1][name]["validated"] == [6, 12]
    assert same_bits(both[0][name]["state"], both[1][name]["state"])
    one = by_the_clock(Ranks(), tmp_path, ahead=name == "clock ahead")
    assert (one["step"], one["validated"]) == (20, [6, 12])


def test_a_signal_to_one_rank_stops_both_at_the_same_step(both: list[dict[str, Any]]) -> None:
    assert both[0]["signal"] == both[1]["signal"] == 4
    # One more was under way.
    assert both[0]["signal ahead"] == both[1]["signal ahead"] == 5


def test_exchange(both: list[dict[str, Any]]) -> None:
    for rank in both:
        assert rank["gathered"][:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
        assert tuple(rank["agreed"]) == (10.0, True)


def test_one_process_exchanges_nothing() -> None:
    ranks = Ranks()
    value = torch.ones(2)
    ranks.sum_([value])
    assert value.tolist() == [1.0, 1.0]
    assert ranks.gather(value) is value
    assert ranks.lead_and_any(3.0, False) == (3.0, False)
    assert ranks.leads


def test_groups_follow_each_other_in_one_process(both: list[dict[str, Any]]) -> None:
    assert [rank["heard"] for rank in both] == [["group 0", "group 1", "group 2"]] * 2


def test_training_on_a_cpu_imports_no_compiler(both: list[dict[str, Any]]) -> None:
    assert [rank["compiler"] for rank in both] == [False, False]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
