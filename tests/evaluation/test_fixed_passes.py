"""Chunks read and learned as the same work on the same addresses score as chunks as they come do."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_lora import BLOCK, BYTES, CAT, DOG, IDS, STARTS, network

from bytegolf.evaluation.adaptation import DocumentLora, MatchModel, Phases, lora
from bytegolf.evaluation.adaptation.learner import LoraLearner
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramXor
from bytegolf.model.gates import SparseGate
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import MATRIX_ROLES, Role
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory, Places, Stream
from bytegolf.model.value_embedding import ValueEmbedding

EVERY_TARGET = tuple(role for role in Role if role in MATRIX_ROLES | {Role.HEAD})[1:]
SPEC = DocumentLora(
    rank=4, chunk=7, length=40, learning_rate=0.03, context="kept", targets=EVERY_TARGET, weight_decay=0.5
)
HEADLINE = Chunked(32)
WINDOWED = Block(Attention(2, 1, window=9, gate=SparseGate()), SquaredMlp(16))
SHARED = Block(Attention(2, 1, shared_values=True), SquaredMlp(16))
NETWORKS: dict[str, LanguageModel] = {
    "plain": network(),
    "windowed": network(layers=(BLOCK, WINDOWED, BLOCK)),
    "smeared": network(smear=SmearGate(), bigram=BigramXor(64, 8)),
    "mixed": network(layers=(SHARED,) * 2, smear=SmearMix(), value_embedding=ValueEmbedding(8)),
    "looped": network(layers=(BLOCK,) * 3, loop=Loop(1, 2, 3), skips=False, smear=SmearGate()),
    "lanes": network(layers=(BLOCK,) * 3, lanes=Lanes(start=1)),
}
SMALL_LOOP = network(loop=Loop(0, 1, 2), skips=False, smear=SmearGate())


def both(
    monkeypatch: pytest.MonkeyPatch,
    adaptation: Any,
    model: LanguageModel,
    ids: np.ndarray,
    starts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores by free passes, and by fixed ones."""
    found = []
    for fixed in (False, True):
        monkeypatch.setattr(lora, "LoraLearner", functools.partial(LoraLearner, fixed=fixed))
        found.append(score(model, BYTES, ids, starts, HEADLINE, adaptation=adaptation).nats_N)
    return found[0], found[1]


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())
def test_scores_are_those_of_free_passes(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    free, fixed = both(monkeypatch, SPEC, model, IDS, STARTS)
    np.testing.assert_allclose(fixed, free, rtol=0, atol=1e-9)
    monkeypatch.undo()
    plain = score(model, BYTES, IDS, STARTS, SPEC.plan(HEADLINE)).nats_N
    assert np.abs(fixed - plain).max() > 0.05


CHANGES: dict[str, dict[str, Any]] = {
    "chunks that fill a block": {"chunk": 8},
    "a block that begins where its chunk does": {"length": 9, "chunk": 5, "stride": 5},
    "blocks close together": {"stride": 5},
    "matrices alone": {"targets": (Role.MLP_UP, Role.ATTENTION_KEY), "alpha": 9.0, "beta1": 0.0},
    "one layer's pass": {"per_pass": True},
    "phases": {"phases": Phases(prefix=3, count=2)},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("tilted", [False, True], ids=["plain", "tilted"])
def test_settings_mean_the_same(
    changes: dict[str, Any], tilted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, **changes)
    adaptation = MatchModel(spec) if tilted else spec
    free, fixed = both(monkeypatch, adaptation, SMALL_LOOP, IDS, STARTS)
    np.testing.assert_allclose(fixed, free, rtol=0, atol=1e-9)


def test_a_batch_forgets_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "_MOST_ROWS", 3)
    texts = [CAT * size + DOG for size in (9, 8, 6, 5, 3, 2, 1)] + [CAT * 4 + DOG]
    ids, starts = token_stream(BYTES, texts)
    free, fixed = both(monkeypatch, SPEC, NETWORKS["smeared"], ids, starts)
    np.testing.assert_allclose(fixed, free, rtol=0, atol=1e-9)


def test_several_steps_and_warm_starts_come_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({"steps": 2}, {"warm_start": 2}, {"context": "reread"}):
        spec = replace(SPEC, **changes)
        free, fixed = both(monkeypatch, spec, NETWORKS["plain"], IDS, STARTS)
        assert np.array_equal(fixed, free)


def test_few_shapes_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    take = lora.LoraLearner.score

    def watched(self: LoraLearner, *arguments: Any) -> None:
        take(self, *arguments)
        assert self._kept_passes is not None
        shapes.extend(self._kept_passes._steps)

    monkeypatch.setattr(LoraLearner, "score", watched)
    monkeypatch.setattr(lora, "LoraLearner", functools.partial(LoraLearner, fixed=True))
    ids, starts = token_stream(BYTES, [CAT * size for size in range(1, 12)])
    score(NETWORKS["plain"], BYTES, ids, starts, HEADLINE, adaptation=SPEC)
    assert shapes == [11, 8, 6, 4, 3, 2, 1]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(NETWORKS)))
@torch.no_grad()
def test_tokens_at_places_are_the_forward_pass(data: st.DataObject, name: str) -> None:
    model, rows, length = NETWORKS[name], 3, 20
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ids = torch.randint(BYTES.vocabulary, (rows, length), generator=generator)
    starts = torch.rand(rows, length, generator=generator) < 0.1
    starts[:, 0] = True
    expected = model.log_probabilities(ids, starts)
    first = data.draw(st.integers(1, length - 1))
    tokens = data.draw(st.integers(2, 6))
    memory = Memory(length + tokens)
    model.log_probabilities(ids[:, :first], starts[:, :first], memory)
    for place in range(first, length, tokens):
        # What lies behind the text is read too, and seen by nothing in it.
        index = torch.arange(place, place + tokens).clamp(max=length - 1)
        memory.places = Places.of(torch.tensor([place]), tokens, length + tokens)
        found = model.distribution(model.hidden(ids[:, index], Stream.of_places(starts[:, index], memory)))
        there = min(tokens, length - place)
        torch.testing.assert_close(found[:, :there], expected[:, place : place + there])


def test_gradients_reach_the_tokens_at_their_places_alone() -> None:
    memory = Memory(5)
    memory.position = 3
    memory.extend("a", torch.arange(6.0).view(2, 3, 1))
    memory.places = Places.of(torch.tensor([2]), 2, 5)
    value = torch.full((2, 2, 1), 7.0, requires_grad=True)
    whole = memory.extend("a", value)
    # The rooms as they were, and behind them what is read now.
    assert whole[0, :, 0].tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 7.0, 7.0]
    whole.sum().backward()
    assert value.grad is not None
    assert value.grad.flatten().tolist() == [1.0] * 4
    kept = memory.tensors["a"]
    assert kept[1, :, 0].tolist() == [3.0, 4.0, 7.0, 7.0, 0.0]
    assert not kept.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("tilted", [False, True], ids=["plain", "tilted"])
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_recorded_steps_score_as_free_passes_do(
    tilted: bool, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = Block(Attention(heads=4, key_value_heads=2), SquaredMlp(256))
    model = (
        Model(width=128, layers=(block,) * 3, vocabulary=BYTES.vocabulary, smear=SmearGate()).build().cuda()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if precision == torch.float64:
        model.double()
    model.compute_dtype = precision
    random = np.random.default_rng(1)
    # Longer ones make of the last bit what they like: in float32 too, 94 chunks lead 0.006 nats a token off.
    texts = [bytes(random.integers(97, 107, length)) for length in (600, 300, 500, 250, 550, 520)]
    ids, starts = token_stream(BYTES, texts)
    learner = replace(SPEC, chunk=32, length=256, learning_rate=0.003)
    adaptation = MatchModel(learner) if tilted else learner
    free, fixed = both(monkeypatch, adaptation, model, ids, starts)
    monkeypatch.undo()
    again = score(model, BYTES, ids, starts, HEADLINE, adaptation=adaptation).nats_N
    assert np.array_equal(fixed, again)
    if precision == torch.float64:
        assert np.abs(fixed - free).max() < 1e-8
        return
    # Both are held against what neither rounds off.
    model.double().compute_dtype = torch.float64
    exact = score(model, BYTES, ids, starts, HEADLINE, adaptation=adaptation).nats_N
    errors = [float(np.abs(nats - exact).mean()) for nats in (fixed, free)]
    assert errors[0] < 1.2 * errors[1], errors
    assert abs(fixed.mean() - exact.mean()) < 3e-3, (fixed.mean(), free.mean(), exact.mean())
