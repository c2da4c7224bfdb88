"""A step queued before the numbers of the one before it are read: the same training, in less time."""

import dataclasses
import functools
import itertools
import json
import math
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launching import launch
from test_stages import Rounding
from toy_training import NETWORK, Clock, changed, finished, losses_of, outcome, same_bits, trainer

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits, Noise
from bytegolf.compression.stages import SeenGrids
from bytegolf.errors import DivergedError
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.training.averaging import StochasticAverage
from bytegolf.training.budget import Budget, Pace
from bytegolf.training.groups import OptimizerGroup, Optimizers
from bytegolf.training.loop import Progress, QueuedStep, Trainer
from bytegolf.training.muon import Muon
from bytegolf.training.ranks import Ranks
from bytegolf.training.readback import Readback
from bytegolf.training.schedule import StepSchedule
from bytegolf.training.signals import Interrupted
from bytegolf.training.spec import Training
from bytegolf.training.stages import Stages


class Arriving(Readback):
    """Numbers that arrive when a device is done, on a clock that does not go by itself."""

    def __init__(self, device: "Device", step: int, numbers: Readback) -> None:
        self.device, self.step, self.numbers, self.at = device, step, numbers, device.free_at

    def wait(self) -> list[float]:
        self.device.log.append(f"read {self.step}")
        self.device.clock.now = max(self.device.clock.now, self.at)
        return self.numbers.wait()


class Device:
    """A pretended device: queueing a step takes `launch` seconds, and then the device works, one by one."""

    def __init__(self, toy: Trainer, clock: Clock, durations: Iterable[float], launch: float = 0.0) -> None:
        self.clock = clock
        self.log: list[str] = []
        self.reports: list[Progress] = []
        self.free_at = clock.now
        durations, one_step = iter(durations), toy._one_step

        def queue(batch: Any, *factors: float) -> QueuedStep:
            queued = one_step(batch, *factors)
            self.log.append(f"queue {queued.step}")
            clock.now += launch
            self.free_at = max(self.free_at, clock.now) + next(durations)
            return dataclasses.replace(queued, numbers=Arriving(self, queued.step, queued.numbers))

        toy._one_step = queue  # type: ignore[method-assign]
        toy.watch = self.reports.append


def nothing_learned(toy: Trainer, batch: Any, share: float, multiplier: float) -> QueuedStep:
    toy.step += 1
    toy.tokens += toy.spec.tokens_per_step
    return QueuedStep(toy.step, toy.tokens, multiplier, Readback(torch.ones(3)))


def on_device(
    spec: Training,
    durations: Iterable[float] | None = None,
    folder: Path | None = None,
    *,
    ahead: bool = True,
    launch: float = 0.0,
    learns: bool = True,
    **more: Any,
) -> tuple[Trainer, Device]:
    """A trainer on a pretended device. learns: without it steps compute nothing, which takes less time."""
    clock = Clock()
    toy = trainer(spec, folder, clock=clock, **more)
    toy.ahead = ahead
    if not learns:
        toy._one_step = functools.partial(nothing_learned, toy)  # type: ignore[method-assign]
    return toy, Device(toy, clock, durations or itertools.repeat(1.0), launch)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_step_is_queued_before_the_numbers_of_the_one_before_are_read() -> None:
    toy, device = on_device(changed(budget=Budget(steps=5)))
    finished(toy)
    # The first step is waited for: until then nobody knows what one takes.
    assert device.log == [
        *("queue 1", "read 1", "queue 2", "queue 3", "read 2", "queue 4", "read 3"),
        *("queue 5", "read 4", "read 5"),
    ]
    plain, device = on_device(changed(budget=Budget(steps=3)), ahead=False)
    finished(plain)
    assert device.log == ["queue 1", "read 1", "queue 2", "read 2", "queue 3", "read 3"]


def test_the_time_of_queueing_is_hidden_behind_the_step_under_way() -> None:
    spec = changed(budget=Budget(steps=20))
    seconds = {}
    for ahead in (False, True):
        toy, _ = on_device(spec, launch=0.5, ahead=ahead)
        seconds[ahead] = finished(toy).stopwatch.seconds
    assert seconds == {False: pytest.approx(20 * 1.5), True: pytest.approx(2 * 0.5 + 20 * 1.0)}


@pytest.mark.parametrize(
    "spec",
    [
        changed(validate_at=(0.3, 0.5)),
        changed(budget=Budget(tokens=700), average=None, clip=None),
        changed(average=StochasticAverage(2, 0.8), schedule=StepSchedule(6), validate_at=(0.6,)),
    ],
    ids=["steps", "tokens", "snapshots"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_what_is_learned_and_recorded_is_the_same(tmp_path: Path, spec: Training, dtype: torch.dtype) -> None:
    found = {}
    for ahead in (False, True):
        folder = tmp_path / str(ahead)
        folder.mkdir()
        toy, _ = on_device(
            dataclasses.replace(spec, checkpoint_seconds=3.0),
            folder=folder,
            ahead=ahead,
            dtype=dtype,
            stages=lambda model: [Rounding(model, 0.5), Rounding(model, 0.75)],
            validate=lambda toy=None: (2.0, 1.0),
        )
        finished(toy)
        assert toy.checkpoints is not None
        found[ahead] = (outcome(toy), events(folder), toy.checkpoints.load(), toy.checkpoints.paths())
    (plain, records, checkpoint, paths), (ours, our_records, our_checkpoint, our_paths) = found.values()
    assert same_bits(ours, plain)
    assert our_records == records
    assert our_checkpoint["seconds"] == checkpoint["seconds"]
    assert same_bits(our_checkpoint, checkpoint)
    assert [path.name for path in our_paths] == [path.name for path in paths]


@settings(max_examples=25, deadline=None)
@given(duration=st.floats(0.5, 20.0), fitting=st.floats(1.001, 12.0))
@example(duration=14.623892743436414, fitting=12.0)
def test_as_many_even_steps_fit_into_a_budget_of_seconds(duration: float, fitting: float) -> None:
    spec = changed(budget=Budget(seconds=duration * fitting))
    (plain, _), (ours, device) = (
        on_device(spec, itertools.repeat(duration), ahead=ahead, learns=False) for ahead in (False, True)
    )
    finished(plain)
    finished(ours)
    assert ours.step == plain.step
    assert ours.stopwatch.seconds == pytest.approx(plain.stopwatch.seconds)
    # Near the end the clock decides, and no forecast: the last step is begun with no other under way. Where a
    # whole number of steps fills the budget, rounding says whether one more would fit, and so which is last.
    last, whole = ours.step, abs(fitting - round(fitting)) < 1e-9
    assert last < 2 or whole or device.log[-3:] == [f"read {last - 1}", f"queue {last}", f"read {last}"]
    # Each step has the rate of the time at which it begins, and is recorded when it ends.
    expected = [spec.schedule.multiplier(step / fitting, 0.0) for step in range(ours.step)]
    assert [report.multiplier for report in device.reports] == pytest.approx(expected)
    ends = [duration * (step + 1) for step in range(ours.step)]
    assert [report.seconds for report in device.reports] == pytest.approx(ends)


@settings(max_examples=40, deadline=None)
@given(
    durations=st.lists(st.floats(1.0, 1.5), min_size=1, max_size=30),
    limit=st.floats(3.0, 25.0),
    launch=st.floats(0.0, 1.2),
)
def test_uneven_steps_exceed_a_budget_of_seconds_by_no_more_than_one_does(
    durations: list[float], limit: float, launch: float
) -> None:
    spec = changed(budget=Budget(seconds=limit))
    toy, _ = on_device(spec, itertools.cycle(durations), launch=launch, learns=False)
    finished(toy)
    assert toy.stopwatch.seconds <= limit + (max(durations) - min(durations)) + 1e-9
    # Nor is room for another step left.
    assert toy.stopwatch.seconds + max(durations) + launch > limit - 1e-9


@pytest.mark.parametrize("checkpoint_seconds", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_seen_a_step_later_and_never_saved(
    tmp_path: Path, value: float, checkpoint_seconds: float
) -> None:
    toy, device = on_device(changed(checkpoint_seconds=checkpoint_seconds), folder=tmp_path)
    queue = toy._one_step

    def poisoned(*given: Any) -> QueuedStep:
        if toy.step == 4:
            with torch.no_grad():
                toy.model.embedding.weight[97, 0] = value
        return queue(*given)

    toy._one_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"diverged at step 5: loss .*nan.*lower the learning rates"):
        finished(toy)
    later = ["queue 6"] if checkpoint_seconds > 1.0 else []
    assert device.log[-1 - len(later) :] == [*later, "read 5"]
    assert [event["step"] for event in events(tmp_path)] == [1, 2, 3, 4]
    assert toy.checkpoints is not None
    saved = toy.checkpoints.load()
    assert saved["step"] in (3, 4)
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_far_too_high_losses_are_not_saved(tmp_path: Path) -> None:
    toy, device = on_device(changed(budget=Budget(steps=100), checkpoint_seconds=1.0), folder=tmp_path)

    def watch(progress: Progress) -> None:
        if progress.step == 5:
            toy.first_loss = 0.1

    toy.watch = watch
    with pytest.raises(DivergedError, match=r"training diverged at step 25: loss \d+.*started at 0\.1"):
        finished(toy)
    assert device.log[-2:] == ["queue 26", "read 25"]
    assert toy.checkpoints is not None
    assert toy.checkpoints.load()["step"] == 5


def test_an_interrupted_run_saves_the_step_under_way_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    unbroken = finished(trainer())
    toy, device = on_device(changed(), folder=tmp_path)
    toy.watch = lambda progress: signal.raise_signal(signal.SIGTERM) if progress.step == 4 else None
    with pytest.raises(Interrupted):
        finished(toy)
    assert device.log[-3:] == ["queue 5", "read 4", "read 5"]
    again, device = on_device(changed(), folder=tmp_path)
    assert again.checkpoints is not None
    again.load_state_dict(again.checkpoints.load())
    assert (again.step, again.stopwatch.seconds) == (5, 5.0)
    assert same_bits(outcome(finished(again)), outcome(unbroken))
    # It knows already what a step takes.
    assert device.log[:3] == ["queue 6", "queue 7", "read 6"]
    trained = [event for event in events(tmp_path) if event["event"] == "train"]
    assert [(event["step"], event["seconds"]) for event in trained] == [(n, float(n)) for n in range(1, 11)]


def test_the_pace_is_the_median_of_finished_steps() -> None:
    pace = Pace()
    assert not pace.known
    pace.idle(5.0, 0)
    assert (pace.known, pace.step_seconds) == (False, 0.0)
    pace.idle(15.0, 1)
    assert (pace.known, pace.step_seconds) == (True, 10.0)
    # Something else took three seconds; it is no step.
    pace.idle(18.0, 1)
    assert pace.running(18.5, 1) == 28.0
    assert pace.running(20.0, 2) == 20.0 + 6.0
    assert pace.running(20.5, 2) == 26.0
    assert pace.running(21.0, 3) == 21.0 + 2.0
    assert pace.running(30.0, 3) == 30.0
    pace = Pace(12.0, 4)
    assert (pace.known, pace.step_seconds) == (True, 3.0)


def test_a_step_that_begins_with_nothing_under_way_is_expected_to_take_what_such_steps_did() -> None:
    pace = Pace()
    pace.idle(0.0, 0)
    pace.idle(9.0, 1)
    for seconds, steps in ((9.5, 1), (12.0, 2), (14.0, 3), (16.0, 4), (18.0, 5)):
        pace.running(seconds, steps)
    # The first took nine seconds, the next of its kind three.
    assert (pace.step_seconds, pace.idle_step_seconds) == (2.0, 3.0)


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
WIDE = dataclasses.replace(
    NETWORK, width=64, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64)),) * 3
)


def on_gpu(spec: Training, ranks: Ranks | None = None, layout: Model = WIDE) -> Trainer:
    ranks = ranks or Ranks(device=torch.device("cuda"))
    toy = trainer(spec, ranks=ranks, layout=layout, dtype=torch.bfloat16)
    toy.model.to(ranks.device)
    toy.optimizers = OptimizerGroup(toy.model, spec.optimizers, ranks, precision=torch.bfloat16)
    toy.average = None if spec.average is None else spec.average.build(toy.model)
    return toy


def losses_on_gpu(*, ahead: bool, ranks: Ranks | None = None) -> list[float]:
    toy = on_gpu(changed(budget=Budget(steps=20), validate_at=(0.5,)), ranks)
    toy.ahead = ahead
    return losses_of(toy)


class TestOnAGpu:
    pytestmark = GPU

    # The first has more tokens than the gradient of the embedding takes without sorting them.
    @pytest.mark.parametrize(
        "spec",
        [
            changed(length=1024, forward_rows=4, clip=None),
            changed(length=1024, clip=1.0, z_loss=1e-4, average=StochasticAverage(1, 1.0)),
            changed(optimizers=Optimizers(matrices=Muon(gram_above=1.5, equalize_rows=True))),
        ],
        ids=["plain", "clipped", "gram"],
    )
    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    def test_queueing_a_step_asks_for_no_number(self, spec: Training) -> None:
        toy = on_gpu(spec)
        seen = SeenGrids(
            toy.model,
            Compression(plan=FixedBits(Grid(6)), quantization_aware_from=0.1, prune=0.1, noise=Noise(0.2)),
            lambda: FixedBits(Grid(6)).grids(),
            seed=0,
        )
        toy.stages = Stages(seen.stages)
        assert len(toy.stages.enter_due(0.5)) == 2
        batches = toy._prefetch()
        toy._one_step(next(batches), 0.0, 1.0).numbers.wait()
        batch = next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            queued = toy._one_step(batch, 0.5, 0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            batches.close()
        assert all(math.isfinite(number) for number in queued.numbers.wait())

    def test_a_step_is_queued_while_the_device_is_busy(self) -> None:
        # One layer: only so many kernels can wait at a time.
        toy = on_gpu(
            changed(length=1024, forward_rows=4), layout=dataclasses.replace(WIDE, layers=WIDE.layers[:1])
        )
        batches = toy._prefetch()
        for _ in range(3):
            toy._one_step(next(batches), 0.0, 1.0).numbers.wait()
        batch, busy = next(batches), torch.cuda.Event()
        # About two seconds. What waits for the device without asking for a number is seen by this alone.
        torch.cuda._sleep(4_000_000_000)
        busy.record()
        queued = toy._one_step(batch, 0.5, 0.5)
        assert not busy.query()
        queued.numbers.wait()
        assert busy.query()
        batches.close()

    def test_numbers_are_those_of_the_work_queued_before_them(self) -> None:
        values = torch.zeros(3, dtype=torch.float64, device="cuda")
        for _ in range(100):
            values = values + torch.tensor([1.0, 2.0, 0.1], dtype=torch.float64, device="cuda")
        assert Readback(values).wait() == pytest.approx([100.0, 200.0, 10.0])

    def test_the_losses_are_those_of_a_run_that_waits(self) -> None:
        losses = losses_on_gpu(ahead=True)
        assert len(losses) == 20
        assert losses == pytest.approx(losses_on_gpu(ahead=False), rel=0.02)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
    def test_two_gpus_see_the_same_losses(self, tmp_path: Path) -> None:
        launch(__file__, tmp_path)
        first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
        assert first == second
        assert first == pytest.approx(losses_on_gpu(ahead=True), rel=0.02)


def main(folder: Path) -> None:
    """One of two processes, each with a GPU."""
    ranks = Ranks.start("cuda")
    losses = losses_on_gpu(ahead=True, ranks=ranks)
    (folder / f"{ranks.rank}.json").write_text(json.dumps(losses))
    ranks.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
