"""Stages begin once, at their share, look after themselves, and come back with a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import Clock, broken_off, changed, finished, losses_of, outcome, same_bits, trainer

from bytegolf.model.spec import LanguageModel
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.loop import Progress, Trainer
from bytegolf.training.stages import Stages


class Rounding:
    """From its share on, the forward pass sees the embedding on a grid that is fixed when it begins."""

    def __init__(self, model: LanguageModel, at: float, name: str = "rounding") -> None:
        self.model, self.at, self.name = model, at, name
        self.step_size = 0.0
        self.calls: list[str] = []

    def prepare(self) -> None:
        self.calls.append("prepare")
        self.model.embedding.quantized = self.model.embedding.weight.detach()

    def enter(self) -> None:
        self.calls.append("enter")
        self.step_size = float(self.model.embedding.weight.detach().abs().max()) / 4
        self._round()

    def after_update(self) -> None:
        self.calls.append("after")
        self._round()

    def state_dict(self) -> dict[str, Any]:
        return {"step_size": self.step_size}

    def restore(self, state: dict[str, Any]) -> None:
        self.calls.append("restore")
        self.step_size = state["step_size"]
        self._round()

    def _round(self) -> None:
        weight = self.model.embedding.weight.detach()
        self.model.embedding.quantized = (weight / self.step_size).round() * self.step_size


def staged(
    folder: Path | None, shares: tuple[float, ...] = (0.5,), steps: int = 8
) -> tuple[Trainer, list[Rounding]]:
    made: list[Rounding] = []

    def stages(model: LanguageModel) -> list[Rounding]:
        made.extend(Rounding(model, at, f"from {at}") for at in shares)
        return made

    return trainer(changed(budget=Budget(steps=steps)), folder, stages=stages), made


@pytest.mark.parametrize("validate_at", [(), (0.5,)])
def test_no_step_follows_a_stage_that_took_the_rest_of_the_budget(validate_at: tuple[float, ...]) -> None:
    # Validation stops the clock; a stage that begins right after it is counted all the same.
    clock = Clock()

    class Slow(Rounding):
        def enter(self) -> None:
            clock.now += 6.0
            super().enter()

    spec = changed(budget=Budget(seconds=10.0), validate_at=validate_at)
    toy = trainer(spec, stages=lambda model: [Slow(model, 0.5)], clock=clock, validate=lambda: (1.0, 1.0))

    def one_second(progress: Progress) -> None:
        clock.now += 1.0

    toy.watch = one_second
    finished(toy)
    # Five steps, then the stage: eleven seconds are more than there were.
    assert toy.step == 5
    assert toy.stopwatch.seconds == pytest.approx(11.0)


def test_a_stage_begins_once_before_the_first_step_at_its_share(tmp_path: Path) -> None:
    toy, (stage,) = staged(tmp_path)
    losses = losses_of(toy)
    # Steps 5 to 8 of 8 start at shares 0.5 to 0.875.
    assert stage.calls == ["enter", *["after"] * 4]
    plain_losses = losses_of(trainer(changed(budget=Budget(steps=8))))
    assert losses[:4] == plain_losses[:4]
    assert losses[4] != plain_losses[4]
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.count('"stage"') == 1
    assert '"event": "stage", "step": 4' in text


def test_stages_begin_in_the_order_of_their_shares() -> None:
    model = torch.nn.Identity()
    made = [Rounding(model, at, str(at)) for at in (0.7, 0.0, 0.2)]  # type: ignore[arg-type]
    for stage in made:
        stage._round = lambda: None  # type: ignore[method-assign]
        stage.enter = lambda: None  # type: ignore[method-assign]
    stages = Stages(made)
    assert stages.enter_due(0.0) == ["0.0"]
    assert stages.enter_due(0.1) == []
    assert stages.enter_due(0.9) == ["0.2", "0.7"]
    assert stages.enter_due(1.0) == []


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    shares = (0.5, 0.25)
    unbroken, made = staged(None, shares)
    finished(unbroken)
    assert made[0].calls.count("enter") == made[1].calls.count("enter") == 1

    broken, _ = staged(tmp_path, shares)

    broken_off(broken, stop)

    resumed, again = staged(tmp_path, shares)
    assert resumed.checkpoints is not None
    resumed.load_state_dict(resumed.checkpoints.load())
    finished(resumed)
    assert same_bits(outcome(resumed), outcome(unbroken))
    for stage in again:
        begun = stop / 8 > stage.at
        assert stage.calls.count("restore") == int(begun)
        assert stage.calls.count("enter") == int(not begun)


def test_preparing_changes_no_loss() -> None:
    toy, (stage,) = staged(None)
    twin, _ = staged(None)
    toy.warm_up()
    assert stage.calls == ["prepare"]
    assert same_bits(outcome(finished(toy)), outcome(finished(twin)))


def test_a_prepared_stage_sees_the_moving_weights() -> None:
    toy, _ = staged(None, shares=(0.9,), steps=4)
    toy.spec = changed(toy.spec, average=Average(0.5))
    toy.warm_up()
    finished(toy)
    assert torch.equal(toy.model.embedding.used_weight(), toy.model.embedding.weight)
