"""Rows joined late: from then on training is that of longer rows, and the tokens are the same."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import NETWORK, broken_off, changed, finished, losses_of, outcome, same_bits, trainer

from bytegolf.errors import RecipeError
from bytegolf.training.budget import Budget
from bytegolf.training.longer_rows import JoinedRows, LongerRows
from bytegolf.training.loop import Trainer

#: No layer looks back less far than a row.
LAYOUT = dataclasses.replace(NETWORK, layers=NETWORK.layers[::2])


def toy(longer: LongerRows | None, folder: Path | None = None, **values: Any) -> Trainer:
    spec = changed(**{"budget": Budget(steps=8), "longer_rows": longer, **values})
    joined = JoinedRows(longer, spec.rows)
    run = trainer(spec, folder, stages=lambda model: joined.stages, layout=LAYOUT)
    run.joined_rows = joined
    return run


def test_joined_from_the_start_they_are_longer_rows() -> None:
    longer = finished(toy(None, rows=2, length=32, forward_rows=1))
    joined = finished(toy(LongerRows(start=0.0)))
    for expected, found in zip(longer.model.parameters(), joined.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_before_their_share_rows_are_short_and_the_tokens_stay_the_same() -> None:
    short, joined = toy(None), toy(LongerRows(start=0.5))
    joined.warm_up()
    expected, losses = losses_of(short), losses_of(joined)
    assert losses[:4] == expected[:4]
    assert all(a != b for a, b in zip(losses[4:], expected[4:], strict=True))
    assert joined.tokens == short.tokens


def test_a_pass_takes_as_many_tokens_as_before() -> None:
    joined = JoinedRows(LongerRows(times=2), 4)
    rows_BT = torch.arange(24).view(4, 6)
    assert torch.equal(joined.joined(rows_BT), rows_BT)
    with joined.joining(2):
        assert torch.equal(joined.joined(rows_BT), torch.arange(24).view(2, 12))
    assert joined.times == 1
    joined.enter()
    assert joined.joined(rows_BT[:2]).shape == (1, 12)


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_run_has_the_rows_that_it_was_left_with(tmp_path: Path, stop: int) -> None:
    unbroken = finished(toy(LongerRows(start=0.5)))
    broken_off(toy(LongerRows(start=0.5), tmp_path), stop)
    resumed = toy(LongerRows(start=0.5), tmp_path)
    assert resumed.checkpoints is not None
    resumed.load_state_dict(resumed.checkpoints.load())
    assert resumed.joined_rows.times == (2 if stop > 4 else 1)
    resumed.warm_up()
    assert same_bits(outcome(finished(resumed)), outcome(unbroken))


def test_the_context_is_that_of_the_longest_rows() -> None:
    assert changed().context == 16
    assert changed(longer_rows=LongerRows(times=4), forward_rows=4).context == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongerRows(start=1.0), "longer_rows.start=1.0"),
        (lambda: LongerRows(times=1), "longer_rows.times=1"),
        (lambda: changed(longer_rows=LongerRows(times=3)), "training.rows=4 cannot be joined 3"),
        (lambda: changed(rows=6, forward_rows=2, longer_rows=LongerRows(times=3)), "forward_rows=2"),
        (lambda: JoinedRows(LongerRows(times=2), 3), "3 rows a process"),
    ],
)
def test_rows_that_cannot_be_joined_are_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
