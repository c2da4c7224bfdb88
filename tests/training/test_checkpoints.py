"""Checkpoints are whole or absent, plain data, and the one before stands in for a broken one."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_training import same_bits

from bytegolf.errors import CheckpointError
from bytegolf.training.checkpoint import Checkpoints


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "first_loss": 0.1 + 0.2,
        "model": {"w": torch.full((3, 4), float(step)), "h": torch.ones(2, dtype=torch.bfloat16)},
        "optimizers": [{"state": {0: {"momentum": torch.arange(5.0)}}, "param_groups": [{"lr": 0.1}]}],
        "average": None,
        "stages": [{"role": {"type": "Grid", "bits": 6}}],
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoint")


def test_the_newest_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    for step in (9, 10, 100):
        checkpoints.save(step, state(step))
    assert same_bits(checkpoints.load(), state(100))
    assert [path.name for path in checkpoints.paths()] == ["step-000000010.pt", "step-000000100.pt"]


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    checkpoints.save(3, state(1))
    checkpoints.save(3, state(2))
    assert checkpoints.load()["model"]["w"][0, 0] == 2
    assert len(checkpoints.paths()) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "flipped"])
def test_a_broken_one_falls_back_to_the_one_before(checkpoints: Checkpoints, damage: str) -> None:
    checkpoints.save(1, state(1))
    path = checkpoints.save(2, state(2))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    elif damage == "garbage":
        data = bytearray(b"\x80\x02 this is no checkpoint" * 9)
    else:
        place = data.index(torch.full((3, 4), 2.0).numpy().tobytes())
        data[place + 5] ^= 0x40
    path.write_bytes(data)
    assert same_bits(checkpoints.load(), state(1))


def test_all_broken_is_one_line_that_names_each(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        checkpoints.save(step, state(step)).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"step-000000002\.pt.*step-000000001\.pt.*new folder"
    ) as caught:
        checkpoints.load()
    assert "\n" not in str(caught.value)


def test_no_checkpoint_is_a_clear_error(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.load()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_noticed_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    checkpoints = Checkpoints(tmp_path / "fuzz")
    path = checkpoints.save(1, state(1))
    whole = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "overwrite"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del whole[place:]
    else:
        end = place if kind == "insert" else place + 8
        whole[place:end] = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(whole)
    try:
        loaded = checkpoints.load()
    except CheckpointError as error:
        message = str(error)
    else:
        message = ""
        assert same_bits(loaded, state(1))
    assert "\n" not in message


def test_code_in_a_checkpoint_is_refused_not_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    checkpoints.save(1, {"step": Hostile()})
    with pytest.raises(CheckpointError, match=r"step-000000001\.pt: Weights only load failed"):
        checkpoints.load()
    assert not (tmp_path / "pwned").exists()


def test_a_failed_write_leaves_the_old_ones_and_no_rest(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(1, state(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, state(2))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-000000001.pt"]
    assert same_bits(checkpoints.load(), state(1))


def test_a_half_written_temporary_file_is_no_checkpoint(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, state(1))
    (checkpoints.folder / ".step-000000002.pt.x1y2").write_bytes(path.read_bytes()[:100])
    assert same_bits(checkpoints.load(), state(1))
