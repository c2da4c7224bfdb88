"""The loop: budgets, gradients, divergence, what is recorded."""

import json
import math
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_training import TRAINING, Clock, changed, finished, same_bits, trainer, weights

from bytegolf.errors import BudgetError, DivergedError
from bytegolf.training.averaging import Average, StochasticAverage
from bytegolf.training.budget import Budget
from bytegolf.training.loop import Progress, QueuedStep, Trainer
from bytegolf.training.ranks import PendingSum, Ranks
from bytegolf.training.schedule import StepSchedule
from bytegolf.training.signals import Interrupted


def stepping(toy: Trainer, clock: Clock, seconds: float) -> list[Progress]:
    """Lets every step take `seconds`; the list fills with what was reported."""
    reports: list[Progress] = []
    original = toy._one_step

    def one_step(batch: Any, *factors: float) -> QueuedStep:
        clock.now += seconds
        return original(batch, *factors)

    toy._one_step = one_step  # type: ignore[method-assign]
    toy.watch = reports.append
    return reports


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(steps=3), 3),
        (Budget(tokens=3 * 64), 3),
        (Budget(tokens=4 * 64 - 1), 3),
        (Budget(tokens=64), 1),
        (Budget(steps=5, tokens=2 * 64), 2),
        (Budget(steps=2, tokens=5 * 64, seconds=1e6), 2),
    ],
)
def test_the_first_limit_reached_ends_training(budget: Budget, steps: int) -> None:
    toy = finished(trainer(changed(budget=budget)))
    assert toy.step == steps
    assert toy.tokens == 64 * steps


@settings(max_examples=25, deadline=None)
@given(duration=st.floats(0.5, 20.0), fitting=st.floats(0.5, 6.0))
@example(duration=6.0, fitting=1.7)
def test_even_steps_never_exceed_a_budget_of_seconds(duration: float, fitting: float) -> None:
    limit = duration * fitting
    clock = Clock()
    toy = trainer(changed(budget=Budget(seconds=limit)), clock=clock)
    stepping(toy, clock, duration)
    if duration > limit:
        with pytest.raises(BudgetError, match=r"too small for one step, which took"):
            toy.run()
        return
    finished(toy)
    assert toy.stopwatch.seconds <= limit * (1 + 1e-9)
    # Nor is room for another step left, rounding aside.
    assert toy.stopwatch.seconds + duration > limit * (1 - 1e-9)


def test_the_schedule_follows_the_share_of_the_seconds() -> None:
    clock = Clock()
    toy = trainer(changed(budget=Budget(seconds=10.0)), clock=clock)
    reports = stepping(toy, clock, 1.0)
    finished(toy)
    expected = [TRAINING.schedule.multiplier(step / 10, 0.0) for step in range(10)]
    assert [report.multiplier for report in reports] == pytest.approx(expected)
    assert [report.share for report in reports] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_a_fall_over_steps_follows_the_measured_time_of_a_step() -> None:
    clock = Clock()
    toy = trainer(changed(budget=Budget(seconds=20.0), schedule=StepSchedule(5)), clock=clock)
    reports = stepping(toy, clock, 2.0)
    finished(toy)
    assert [report.multiplier for report in reports] == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2])


def test_snapshots_are_averaged_from_where_the_rate_is_low() -> None:
    spec = changed(average=StochasticAverage(2, 0.7), schedule=StepSchedule(5), budget=Budget(steps=10))
    toy = trainer(spec)
    seen: list[dict[str, torch.Tensor]] = []
    toy.watch = lambda progress: seen.append(weights(toy))
    finished(toy)
    assert toy.average is not None
    # The factors of the last five steps are 1, 0.8, 0.6, 0.4 and 0.2.
    for name, value in toy.average.averages().items():
        torch.testing.assert_close(value, (seen[7][name] + seen[9][name]) / 2, rtol=1e-12, atol=1e-14)


def test_training_learns() -> None:
    reports: list[Progress] = []
    toy = trainer(changed(budget=Budget(steps=60), rows=8, forward_rows=8))
    toy.watch = reports.append
    finished(toy)
    assert abs(reports[0].loss - math.log(257)) < 0.2
    assert reports[-1].loss < 0.7 * reports[0].loss
    assert all(report.gradient_norm > 0 for report in reports)


@pytest.mark.parametrize("forward_rows", [1, 2, 3, 100])
def test_gradients_do_not_depend_on_the_rows_of_a_pass(forward_rows: int) -> None:
    whole = trainer(changed(rows=4, forward_rows=4))
    parts = trainer(changed(rows=4, forward_rows=forward_rows))
    batch = whole.batches.batch(0)
    nats = [float(toy._accumulate_gradients(batch)) for toy in (whole, parts)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-12)
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None
            continue
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-15, msg=name)


def test_the_gradient_is_that_of_the_mean_loss() -> None:
    toy = trainer()
    batch = toy.batches.batch(0)
    toy._accumulate_gradients(batch)
    twin = trainer()
    twin.model.losses(batch.ids_BT, batch.targets_BT, batch.starts_BT).mean().backward()
    for a, b in zip(toy.model.parameters(), twin.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("clip", [None, 1e-3, 1e6])
def test_clipping_bounds_the_global_norm_and_reports_it_unclipped(clip: float | None) -> None:
    toy = trainer(changed(clip=clip, budget=Budget(steps=1)))
    toy._accumulate_gradients(toy.batches.batch(0))
    gradients = {name: p.grad.clone() for name, p in toy.model.named_parameters() if p.grad is not None}
    toy.model.zero_grad()
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    used: dict[str, torch.Tensor] = {}

    def step(multiplier: float, *, progress: float) -> None:
        used.update({name: p.grad.clone() for name, p in toy.model.named_parameters() if p.grad is not None})

    toy.optimizers.step = step  # type: ignore[method-assign]
    reports: list[Progress] = []
    toy.watch = reports.append
    finished(toy)
    factor = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
    assert reports[0].gradient_norm == pytest.approx(norm, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(used[name], gradient * factor, rtol=1e-9, atol=1e-15)


def test_gradients_do_not_pile_up_between_steps() -> None:
    toy = finished(trainer(changed(budget=Budget(steps=2))))
    assert all(parameter.grad is None for parameter in toy.model.parameters())


def test_the_average_takes_in_every_step() -> None:
    toy = trainer(changed(average=Average(0.6), budget=Budget(steps=4)))
    seen: list[dict[str, torch.Tensor]] = []
    toy.watch = lambda progress: seen.append(weights(toy))
    finished(toy)
    assert toy.average is not None
    shares = [0.6 ** (3 - step) for step in range(4)]
    for name, value in toy.average.averages().items():
        expected = sum(share * one[name] for share, one in zip(shares, seen, strict=True)) / sum(shares)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_warming_up_changes_nothing() -> None:
    plain, warmed = trainer(), trainer()
    warmed.warm_up()
    before, after = ({**toy.state_dict(), "first_loss": 0.0} for toy in (plain, warmed))
    assert same_bits(before, after)
    assert math.isnan(warmed.first_loss)
    assert all(parameter.grad is None for parameter in warmed.model.parameters())
    assert same_bits(finished(plain).state_dict(), finished(warmed).state_dict())


def test_warming_up_connects_the_ranks_by_the_exchange_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged: list[list[torch.Size]] = []

    def start_sum(ranks: Ranks, tensors: Iterable[torch.Tensor]) -> PendingSum:
        exchanged.append([tensor.shape for tensor in tensors][:-1])
        return PendingSum([])

    monkeypatch.setattr(Ranks, "start_sum", start_sum)
    toy = trainer(changed(budget=Budget(steps=1)))
    toy.warm_up()
    finished(toy)
    warming, stepping = exchanged
    assert warming == stepping == [parameter.shape for parameter in toy.model.parameters()]


def test_what_is_recorded(tmp_path: Path) -> None:
    clock = Clock()
    toy = trainer(
        changed(budget=Budget(steps=4), validate_at=(0.75, 0.5)),
        tmp_path,
        clock=clock,
        validate=lambda: (2.0, 1.5),
    )
    stepping(toy, clock, 2.0)
    finished(toy)
    train = events(tmp_path, "train")
    assert [event["step"] for event in train] == [1, 2, 3, 4]
    assert [event["tokens"] for event in train] == [64, 128, 192, 256]
    assert [event["seconds"] for event in train] == [2.0, 4.0, 6.0, 8.0]
    assert set(train[0]) == {
        *("event", "step", "tokens", "seconds", "loss", "bits_per_byte"),
        *("tokens_per_second", "learning_rate", "gradient_norm"),
    }
    batch = toy.batches.batch(0)
    expected = train[0]["loss"] * 64 / math.log(2) / batch.bytes
    assert train[0]["bits_per_byte"] == pytest.approx(expected)
    validation = events(tmp_path, "validation")
    assert [(event["step"], event["loss"], event["bits_per_byte"]) for event in validation] == [
        (2, 2.0, 1.5),
        (3, 2.0, 1.5),
    ]


def test_validation_and_saving_cost_no_training_time(tmp_path: Path) -> None:
    clock = Clock()

    def validate() -> tuple[float, float]:
        clock.now += 1000.0
        return 1.0, 1.0

    toy = trainer(
        changed(budget=Budget(seconds=10.0), validate_at=(0.3, 0.6)), tmp_path, clock=clock, validate=validate
    )
    stepping(toy, clock, 1.0)
    finished(toy)
    assert toy.step == 10
    assert toy.stopwatch.seconds == 10.0
    assert [event["step"] for event in events(tmp_path, "validation")] == [3, 6]


def test_shares_that_fall_due_together_are_validated_once(tmp_path: Path) -> None:
    toy = trainer(
        changed(budget=Budget(steps=2), validate_at=(0.1, 0.2, 0.3, 0.6)),
        tmp_path,
        validate=lambda: (1.0, 1.0),
    )
    finished(toy)
    assert [event["step"] for event in events(tmp_path, "validation")] == [1, 2]


def test_checkpoints_are_written_as_often_as_asked(tmp_path: Path) -> None:
    clock = Clock()
    toy = trainer(changed(budget=Budget(steps=9), checkpoint_seconds=4.0), tmp_path, clock=clock)
    stepping(toy, clock, 1.0)
    saved: list[int] = []
    assert toy.checkpoints is not None
    original = toy.checkpoints.save
    toy.checkpoints.save = lambda step, state: saved.append(step) or original(step, state)  # type: ignore
    finished(toy)
    assert saved == [4, 8, 9]
    assert [path.name for path in toy.checkpoints.paths()] == ["step-000000008.pt", "step-000000009.pt"]


def poison(toy: Trainer, at_step: int, value: float) -> None:
    """Makes one weight `value` after `at_step` steps."""

    def watch(progress: Progress) -> None:
        if progress.step == at_step:
            with torch.no_grad():
                toy.model.embedding.weight[97, 0] = value

    toy.watch = watch


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_update_and_keeps_the_checkpoint(
    tmp_path: Path, value: float
) -> None:
    clock = Clock()
    toy = trainer(changed(budget=Budget(steps=9), checkpoint_seconds=3.0), tmp_path, clock=clock)
    stepping(toy, clock, 1.0)
    poison(toy, 4, value)
    with pytest.raises(DivergedError, match=r"diverged at step 5: loss .*nan.*lower the learning rates"):
        finished(toy)
    good = trainer(folder=tmp_path)
    assert good.checkpoints is not None
    good.load_state_dict(good.checkpoints.load())
    good.record.close()
    assert good.step == 3
    assert all(value.isfinite().all() for value in good.model.state_dict().values())
    assert good.average is not None
    assert all(value.isfinite().all() for value in good.average.averages().values())


def test_a_loss_that_stays_far_above_its_start_stops_and_saves_nothing_more(tmp_path: Path) -> None:
    clock = Clock()
    toy = trainer(changed(budget=Budget(steps=100), checkpoint_seconds=1.0), tmp_path, clock=clock)
    reports = stepping(toy, clock, 1.0)

    def watch(progress: Progress) -> None:
        reports.append(progress)
        if progress.step == 5:
            # As if the start had been far below: from now on the loss is above twice it and one nat.
            toy.first_loss = 0.1

    toy.watch = watch
    with pytest.raises(DivergedError, match=r"training diverged at step 25: loss \d+.*started at 0\.1"):
        finished(toy)
    assert toy.checkpoints is not None
    assert toy.checkpoints.load()["step"] == 5


def test_a_few_high_losses_are_forgiven() -> None:
    toy = trainer(changed(budget=Budget(steps=60)))

    def watch(progress: Progress) -> None:
        # Ten high steps, ten low ones, and so on.
        toy.first_loss = 0.1 if progress.step // 10 % 2 else 10.0

    toy.watch = watch
    assert finished(toy).step == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_in_hand_and_ends(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    toy = trainer(folder=tmp_path)
    toy.watch = lambda progress: signal.raise_signal(number) if progress.step == 4 else None
    with pytest.raises(Interrupted):
        finished(toy)
    assert signal.getsignal(number) is before
    assert toy.checkpoints is not None
    assert toy.checkpoints.load()["step"] == 4


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    toy = trainer(folder=tmp_path)

    def watch(progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    toy.watch = watch
    with pytest.raises(KeyboardInterrupt):
        finished(toy)


def test_repeated_runs_are_equal_to_the_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        first, second = (finished(trainer(dtype=dtype)) for _ in range(2))
        assert same_bits(first.state_dict(), second.state_dict())
    other = finished(trainer(changed(seed=2), dtype=torch.bfloat16))
    assert not same_bits(first.state_dict(), other.state_dict())
