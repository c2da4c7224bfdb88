"""What comes later, and what stands in another document or row, changes no bit of a score."""

import pytest
import torch
from specs import SPECS, VOCABULARY, build, packed
from torch import Tensor

from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stream import Stream

LENGTH = 23
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def scores(model: LanguageModel, ids: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Of a stream (B, T + 1): nats of the targets (B, T), and the distribution (B, T, V) at each place."""
    nats = model.losses(ids[:, :-1], ids[:, 1:], starts)
    return nats, model.log_probabilities(ids[:, :-1], starts)


@EVERY_SPEC
@PRECISIONS
@torch.no_grad()
def test_changing_an_id_leaves_every_earlier_score_alone(spec: Model, dtype: torch.dtype) -> None:
    model = build(spec, dtype)
    ids, starts = packed(2, LENGTH, seed=1, share=0.05)
    starts[:, -4:] = False
    nats, logs = scores(model, ids, starts)
    moved = 0
    for place in (1, 2, 9, LENGTH):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1 + place) % VOCABULARY
        if changed[0, place] == ids[0, place]:
            changed[0, place] = (changed[0, place] + 1) % VOCABULARY
        new_nats, new_logs = scores(model, changed, starts)
        # The target of place t is the id at t + 1: scores of the ids before `place` are nats[: place - 1].
        assert torch.equal(new_nats[0, : place - 1], nats[0, : place - 1])
        assert torch.equal(new_logs[0, :place], logs[0, :place])
        assert torch.equal(new_nats[1], nats[1])
        assert torch.equal(new_logs[1], logs[1])
        moved += int(new_nats[0, place - 1] != nats[0, place - 1])
        if place < LENGTH:
            assert not torch.equal(new_logs[0, place], logs[0, place])
    # Two ids may have the same logit in 16 bits, so not every place need show that the score itself moves.
    assert moved >= 3


@EVERY_SPEC
@PRECISIONS
@torch.no_grad()
def test_changing_a_document_leaves_the_others_alone(spec: Model, dtype: torch.dtype) -> None:
    model = build(spec, dtype)
    ids, starts = packed(1, LENGTH, seed=2, share=0.0)
    borders = [0, 8, 15, LENGTH]
    starts[0, borders[:-1]] = True
    nats, logs = scores(model, ids, starts)
    for changed_document in range(3):
        first, last = borders[changed_document], borders[changed_document + 1]
        changed = ids.clone()
        changed[0, first:last] = (changed[0, first:last] + 3) % VOCABULARY
        new_nats, new_logs = scores(model, changed, starts)
        others = torch.ones(LENGTH, dtype=torch.bool)
        others[first:last] = False
        assert torch.equal(new_logs[0, others], logs[0, others])
        # The last target of the document before is the first id of the changed one.
        others[first - 1 : first] = False
        assert torch.equal(new_nats[0, others], nats[0, others])
        assert (new_nats[0, first:last] != nats[0, first:last]).any()


@EVERY_SPEC
@torch.no_grad()
def test_gradients_do_not_cross_documents_either(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(1, LENGTH, seed=3, share=0.0)
    starts[0, [0, 9]] = True
    with torch.enable_grad():
        # All ids of the first document are unlike those of the second, so embedding rows tell them apart.
        ids = torch.where(torch.arange(LENGTH + 1) < 9, ids % 9, 9 + ids % 9)
        hidden = model.hidden(ids[:, :-1], Stream.of(starts))
        hidden[:, 9:].square().sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert not gradient[:9].any()
    assert gradient[9:18].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@torch.no_grad()
def test_a_window_bounds_how_far_an_id_reaches(dtype: torch.dtype) -> None:
    windowed = [spec for spec in SPECS.values() if spec.layers[0].mixer.window == 3]
    assert windowed
    for spec in windowed:
        only = Model(
            width=spec.width,
            layers=(spec.layers[0],) * 2,
            embedding=spec.embedding,
            skips=spec.skips,
            value_embedding=spec.value_embedding,
            vocabulary=VOCABULARY,
        )
        model = build(only, dtype)
        ids, starts = packed(4, LENGTH, seed=4, share=0.0)
        _, logs = scores(model, ids, starts)
        changed = ids.clone()
        changed[:, 5] = (changed[:, 5] + 1) % VOCABULARY
        _, new_logs = scores(model, changed, starts)
        # In one row, what reaches the last place may be lost in rounding.
        differs = (new_logs != logs).any(-1).any(0)
        # Two layers that see 3 tokens back reach 6 tokens on.
        assert differs[5 : 5 + 7].all()
        assert not differs[12:].any()
