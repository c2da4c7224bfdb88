"""Training under noise or on stored values, killed and resumed, alone and after one another."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from toy_training import changed, finished, outcome, same_bits, trainer

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits, Noise
from bytegolf.compression.stages import SeenGrids
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.model.roles import Role
from bytegolf.model.spec import LanguageModel
from bytegolf.training.loop import Progress
from bytegolf.training.stages import Stage

_NOISE = Compression(FixedBits(Grid(5)), noise=Noise(0.25), passthrough_elements=0)
_BOTH = Compression(
    FixedBits(Ternary(4)),
    quantization_aware_from=0.55,
    noise=Noise(0.2, (Role.MLP_UP,)),
    passthrough_elements=0,
)
_BINARY = Compression(FixedBits(Binary(4)), quantization_aware_from=0.0, passthrough_elements=0)
_SPEC = changed(average=None)


def _stages(spec: Compression) -> Callable[[LanguageModel], Sequence[Stage]]:
    def stages(model: LanguageModel) -> Sequence[Stage]:
        assert isinstance(spec.plan, FixedBits)
        return SeenGrids(model, spec, spec.plan.grids, seed=7).stages

    return stages


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [(_NOISE, torch.float64), (_BOTH, torch.bfloat16), (_BINARY, torch.float64)],
    ids=["noise", "both", "binary"],
)
def test_a_killed_noisy_training_reaches_the_same_bits(
    tmp_path: Path, spec: Compression, dtype: torch.dtype
) -> None:
    unbroken = finished(trainer(_SPEC, dtype=dtype, stages=_stages(spec)))
    plain = finished(trainer(_SPEC, dtype=dtype))
    assert not same_bits(outcome(unbroken), outcome(plain))
    for after in (1, 4, 8):
        folder = tmp_path / str(after)
        folder.mkdir()
        toy = trainer(_SPEC, folder, dtype=dtype, stages=_stages(spec))
        _broken_off(toy, after)
        again = trainer(_SPEC, folder, dtype=dtype, stages=_stages(spec))
        assert again.checkpoints is not None
        again.load_state_dict(again.checkpoints.load())
        assert again.step == after
        assert same_bits(outcome(finished(again)), outcome(unbroken))


class _Killed(Exception):
    """Stands for the end of the process."""


def _broken_off(toy, after: int) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == after:
            toy.checkpoints.save(toy.step, toy.state_dict())
            raise _Killed

    toy.watch = kill
    with pytest.raises(_Killed):
        finished(toy)
