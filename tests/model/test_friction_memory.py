"""What decoding through friction keeps beside the keys, where a GPU reads few of them in full."""

import pytest
import torch

from bytegolf.kernels.friction import coarse_rows
from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    # As on a GPU in 16 bits; nothing here reads a single token, which the kernel for that would do.
    monkeypatch.setattr("bytegolf.kernels.friction.runs_fused", lambda queries: True)
    torch.manual_seed(0)
    mixer = Attention(heads=2, key_value_heads=1, friction=Friction())
    return Model(width=16, layers=(Block(mixer, SquaredMlp(16)),) * 2, vocabulary=11).build()


@pytest.mark.parametrize("capacity", [None, 12])
@pytest.mark.parametrize("learning", [False, True])
def test_a_memory_has_every_key_in_8_bits_too(
    model: LanguageModel, capacity: int | None, learning: bool
) -> None:
    memory = Memory(capacity)
    ids = torch.randint(0, 11, (3, 9))
    starts = torch.zeros(3, 9, dtype=torch.bool)
    for part, gradients in ((slice(0, 4), False), (slice(4, 6), learning), (slice(6, 9), False)):
        with torch.set_grad_enabled(gradients):
            model.log_probabilities(ids[:, part], starts[:, part], memory)
    names = [name.removesuffix(".codes") for name in memory.tensors if name.endswith(".codes")]
    assert len(names) == 2
    for name in names:
        codes, notes = coarse_rows(memory.tensors[f"{name}.keys"][:, :9])
        assert torch.equal(memory.tensors[f"{name}.codes"][:, :9], codes)
        assert torch.equal(memory.tensors[f"{name}.notes"][:, :9], notes)
        assert not memory.tensors[f"{name}.notes"].requires_grad


def test_codes_are_within_half_a_step_and_notes_bound_what_they_leave() -> None:
    k = torch.randn(2, 5, 3, 24) * torch.logspace(-3, 3, 5)[None, :, None, None]
    codes, notes = coarse_rows(k)
    step, norm, error = notes.unbind(dim=-1)
    off = k - codes * step[..., None]
    assert float((off.abs() / step[..., None]).max()) <= 0.5 + 1e-4
    assert (k.norm(dim=-1) <= norm).all()
    assert (off.norm(dim=-1) <= error).all()
    assert float((error / off.norm(dim=-1)).max()) < 1.01
