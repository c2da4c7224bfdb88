"""A run that was killed, in any way, goes on to the bits of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_training import Clock, changed, finished, outcome, same_bits, trainer

from bytegolf.errors import CheckpointError
from bytegolf.training.averaging import Average, StochasticAverage
from bytegolf.training.budget import Budget
from bytegolf.training.loop import Progress, Trainer
from bytegolf.training.schedule import StepSchedule
from bytegolf.training.signals import Interrupted
from bytegolf.training.spec import Training

KILLED_STEPS = 150


class Killed(Exception):
    """Stands for the end of the process."""


def broken_off(toy: Trainer, after: int) -> None:
    """Runs the trainer and ends it without a farewell after `after` steps."""
    watch = toy.watch

    def kill(progress: Progress) -> None:
        watch(progress)
        if progress.step == after:
            raise Killed

    toy.watch = kill
    with pytest.raises(Killed):
        finished(toy)


def resumed(toy: Trainer) -> Trainer:
    assert toy.checkpoints is not None
    toy.load_state_dict(toy.checkpoints.load())
    return finished(toy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize(
    "spec",
    [
        changed(checkpoint_seconds=2.5),
        changed(budget=Budget(tokens=640), average=None, checkpoint_seconds=2.5),
        changed(average=StochasticAverage(2, 0.8), schedule=StepSchedule(6), checkpoint_seconds=2.5),
        changed(average=Average(0.8, corrected=False), checkpoint_seconds=2.5),
    ],
    ids=["steps", "tokens", "snapshots", "uncorrected"],
)
def test_a_run_killed_between_checkpoints_reaches_the_same_bits(
    tmp_path: Path, spec: Training, dtype: torch.dtype
) -> None:
    unbroken = finished(trainer(spec, dtype=dtype))
    for folder, kills in (("once", [5]), ("twice", [4, 8]), ("late", [10])):
        (tmp_path / folder).mkdir()
        for index, after in enumerate(kills):
            # Every reading takes a while, so that checkpoints fall due now and then.
            toy = trainer(spec, tmp_path / folder, dtype=dtype, clock=Clock(tick=1.0))
            if index:
                assert toy.checkpoints is not None
                toy.load_state_dict(toy.checkpoints.load())
                assert 0 < toy.step <= kills[index - 1]
            broken_off(toy, after)
        last = resumed(trainer(spec, tmp_path / folder, dtype=dtype))
        assert same_bits(outcome(last), outcome(unbroken))


def test_a_finished_run_resumes_to_nothing_more(tmp_path: Path) -> None:
    done = finished(trainer(folder=tmp_path))
    again = resumed(trainer(folder=tmp_path))
    assert same_bits(outcome(done), outcome(again))


def test_a_checkpoint_of_another_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    done = finished(trainer(folder=tmp_path))
    assert done.checkpoints is not None
    state = done.checkpoints.load()
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name][:-1]
    with pytest.raises(CheckpointError, match="does not fit this recipe") as caught:
        trainer().load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_a_broken_newest_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    unbroken = finished(trainer())
    toy = trainer(changed(checkpoint_seconds=1.0), tmp_path, clock=Clock(tick=1.0))
    broken_off(toy, 7)
    assert toy.checkpoints is not None
    before, newest = toy.checkpoints.paths()
    newest.write_bytes(newest.read_bytes()[:-100])
    last = trainer(folder=tmp_path)
    assert last.checkpoints is not None
    last.load_state_dict(last.checkpoints.load())
    assert last.step == int(before.stem.removeprefix("step-"))
    assert same_bits(outcome(finished(last)), outcome(unbroken))


def test_a_budget_of_seconds_goes_on_from_the_saved_count(tmp_path: Path) -> None:
    spec = changed(budget=Budget(seconds=10.0))
    clock = Clock()
    first = trainer(spec, tmp_path, clock=clock)

    def watch(progress: Progress) -> None:
        if progress.step == 4:
            signal.raise_signal(signal.SIGTERM)

    take_a_second_each(first, clock)
    first.watch = watch
    with pytest.raises(Interrupted):
        finished(first)
    # Another process, much later, with another origin of its clock.
    later = Clock()
    later.now = 5.0
    second = trainer(spec, tmp_path, clock=later)
    assert second.checkpoints is not None
    second.load_state_dict(second.checkpoints.load())
    assert second.stopwatch.seconds == 4.0
    take_a_second_each(second, later)
    shares: list[float] = []
    second.watch = lambda progress: shares.append(progress.share)
    finished(second)
    assert shares == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert second.step == 10
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event["seconds"] for event in events] == [1.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert events[4]["event"] == "resume"


def test_a_resumed_run_does_not_try_a_step_that_cannot_fit(tmp_path: Path) -> None:
    spec = changed(budget=Budget(seconds=10.0))
    clock = Clock()
    toy = trainer(spec, tmp_path, clock=clock)
    take_a_second_each(toy, clock, seconds=4.0)
    finished(toy)
    assert toy.step == 2
    again = trainer(spec, tmp_path, clock=clock)
    take_a_second_each(again, clock, seconds=4.0)
    resumed(again)
    assert again.step == 2
    assert again.stopwatch.seconds == 8.0


def take_a_second_each(toy: Trainer, clock: Clock, seconds: float = 1.0) -> None:
    original = toy._one_step

    def one_step(batch, *factors):  # type: ignore[no-untyped-def]
        clock.now += seconds
        return original(batch, *factors)

    toy._one_step = one_step  # type: ignore[method-assign]


def killed_process(folder: Path, number: int) -> int:
    """Trains in another process until some steps are recorded, sends the signal; the exit code."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        # The same bits need the same number of threads.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
    )
    metrics = folder / "metrics.jsonl"
    before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    try:
        deadline = time.monotonic() + 60
        while not metrics.exists() or len(metrics.read_text().splitlines()) < before + 25:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline, "the training does not begin"
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
def test_processes_killed_by_signals_leave_a_run_that_resumes_to_the_same_bits(tmp_path: Path) -> None:
    spec = killable()
    folder = tmp_path / "run"
    assert killed_process(folder, signal.SIGKILL) == -signal.SIGKILL
    # This one resumes what the first left.
    assert killed_process(folder, signal.SIGTERM) == 3
    leftovers = [path.name for path in (folder / "checkpoint").iterdir() if not path.name.startswith("step-")]
    toy = trainer(spec, folder, dtype=torch.float32)
    last = resumed(toy)
    assert last.step == KILLED_STEPS
    unbroken = finished(trainer(spec, dtype=torch.float32))
    assert same_bits(outcome(last), outcome(unbroken))
    # A SIGKILL in the middle of a save may leave its temporary file, never a broken checkpoint.
    assert len(leftovers) <= 1
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "resume" for event in events) == 2
    assert events[-1]["step"] == KILLED_STEPS


def killable() -> Training:
    return changed(budget=Budget(steps=KILLED_STEPS), rows=2, forward_rows=2, checkpoint_seconds=0.02)


def main(folder: Path) -> None:
    """The process to be killed: starts or resumes a training; exit code 3 when interrupted."""
    toy = trainer(killable(), folder, dtype=torch.float32)
    assert toy.checkpoints is not None
    if toy.checkpoints.paths():
        toy.load_state_dict(toy.checkpoints.load())
    try:
        finished(toy)
    except Interrupted:
        sys.exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
