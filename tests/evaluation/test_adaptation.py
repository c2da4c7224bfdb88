"""Learning from a text while it is scored: only from what has its score, on a copy, better on repetition."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_lora import BYTES as TOKENIZER
from toy_lora import untrained

from bytegolf.errors import LegalityError, RecipeError
from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.evaluation.adaptation.sgd import SgdLearner
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

TEXTS = ["the cat sat on the mat. " * 8, "a dog did, too. " * 20, "the cat sat on the mat. " * 8]
IDS, STARTS = token_stream(TOKENIZER, TEXTS)
SPEC = ScoreFirstSgd(chunk=100, length=16, rows=4, epochs=2, learning_rate=0.05)


MODEL = untrained()


def test_learning_lowers_the_score_of_a_repetitive_text_and_leaves_the_model_alone() -> None:
    before = [parameter.clone() for parameter in MODEL.parameters()]
    fixed = score(MODEL, TOKENIZER, IDS, STARTS, Chunked(32))
    adaptive = score(MODEL, TOKENIZER, IDS, STARTS, Chunked(32), adaptation=SPEC)
    assert adaptive.plan == "chunked 32, adaptive"
    assert adaptive.bits_per_byte < 0.9 * fixed.bits_per_byte
    assert all(torch.equal(a, b) for a, b in zip(before, MODEL.parameters(), strict=True))
    again = score(MODEL, TOKENIZER, IDS, STARTS, Chunked(32), adaptation=SPEC)
    assert again.nats_N.tolist() == adaptive.nats_N.tolist()


@pytest.mark.parametrize("plan", [Chunked(32), Sliding(32, 8)])
def test_the_first_chunk_is_scored_by_the_model_as_it_came(plan: Chunked | Sliding) -> None:
    fixed = score(MODEL, TOKENIZER, IDS, STARTS, plan)
    adaptive = score(MODEL, TOKENIZER, IDS, STARTS, plan, adaptation=SPEC)
    same = adaptive.nats_N == fixed.nats_N
    first = int(np.argmin(same))
    assert SPEC.chunk <= first < SPEC.chunk + 32
    assert not same[first:].all()


def test_what_comes_later_changes_no_score_on_the_adaptive_track() -> None:
    changed = IDS.copy()
    place = 250
    changed[place] = (changed[place] + 1) % 256
    ours, theirs = (
        score(MODEL, TOKENIZER, ids, STARTS, Chunked(32), adaptation=SPEC).nats_N for ids in (IDS, changed)
    )
    assert ours[: place - 1].tolist() == theirs[: place - 1].tolist()
    assert ours[place:].tolist() != theirs[place:].tolist()


def test_a_learner_cannot_have_what_is_not_scored() -> None:
    session = Session(TOKENIZER, IDS, STARTS, Track.adaptive())
    session.record(np.arange(50), np.ones(50))
    learner = SPEC.learner(MODEL)
    learner.learn(session, [(0, 50)], 0.1)
    with pytest.raises(LegalityError, match="learning from target 50 before its score"):
        learner.learn(session, [(0, 51)], 0.1)


def test_spans_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def step(self: SgdLearner, ids: np.ndarray, targets: np.ndarray, starts: np.ndarray, **_: float) -> None:
        seen.append(starts)

    monkeypatch.setattr(SgdLearner, "_step", step)
    session = Session(TOKENIZER, IDS, STARTS, Track.adaptive())
    session.record(np.arange(60), np.ones(60))
    spans: Sequence[tuple[int, int]] = [(10, 20), (30, 45), (50, 50)]
    SPEC.learner(MODEL).learn(session, spans, 0.5)
    assert np.flatnonzero(seen[0]).tolist() == [0, 10]


@pytest.mark.parametrize("length", [1, 7, 16, 50, 200])
def test_any_number_of_tokens_can_be_learned_from(length: int) -> None:
    session = Session(TOKENIZER, IDS, STARTS, Track.adaptive())
    session.record(np.arange(length), np.ones(length))
    learner = SPEC.learner(MODEL)
    learner.learn(session, [(0, length)], 0.0)
    moved = [
        not torch.equal(a, b) for a, b in zip(learner.model.parameters(), MODEL.parameters(), strict=True)
    ]
    assert any(moved)


def test_the_rate_falls_to_nothing_over_the_text() -> None:
    session = Session(TOKENIZER, IDS, STARTS, Track.adaptive())
    session.record(np.arange(40), np.ones(40))
    learner = SPEC.learner(MODEL)
    learner.learn(session, [(0, 40)], 1.0)
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), MODEL.parameters(), strict=True))


def learnings(
    spec: ScoreFirstSgd, plan: Chunked | Sliding, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, int, float]]:
    """What was learned from while the text was scored: first target, stop, rate."""
    seen: list[tuple[int, int, float]] = []

    def learn(self: SgdLearner, session: Session, spans: Sequence[tuple[int, int]], share: float) -> None:
        ((first, stop),) = spans
        session.release(first, stop)
        seen.append((first, stop, self.rate(share)))

    monkeypatch.setattr(SgdLearner, "learn", learn)
    score(MODEL, TOKENIZER, IDS, STARTS, plan, adaptation=spec)
    return seen


def test_rates_are_those_of_the_published_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = -(-(len(IDS) - 1) // 64)
    assert chunks == 12
    expected = [
        (64 * i, 64 * (i + 1), 0.05 * 0.5 * (1 + math.cos(math.pi * i / (chunks - 1))))
        for i in range(chunks - 1)
    ]
    found = learnings(replace(SPEC, chunk=64), Chunked(32), monkeypatch)
    assert [spans for *spans, _ in found] == [spans for *spans, _ in expected]
    np.testing.assert_allclose([rate for *_, rate in found], [rate for *_, rate in expected])
    assert found[0][2] == 0.05


def test_a_constant_rate_does_not_depend_on_the_length_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learnings(replace(SPEC, chunk=64, final_rate=1.0), Chunked(32), monkeypatch)
    assert {rate for *_, rate in found} == {0.05}
    monkeypatch.undo()
    shorter, starts = IDS[:401], STARTS[STARTS < 400]
    differences = []
    for final_rate in (0.0, 1.0):
        spec = replace(SPEC, final_rate=final_rate)
        whole = score(MODEL, TOKENIZER, IDS, STARTS, Chunked(32), adaptation=spec).nats_N[:384]
        part = score(MODEL, TOKENIZER, shorter, starts, Chunked(32), adaptation=spec).nats_N[:384]
        differences.append(np.abs(whole - part).max())
    assert differences[0] > 1e-2
    assert differences[1] < 1e-3


def test_a_window_belongs_to_the_chunk_in_which_it_begins_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows score 0–31, 32–39, 40–47, …: the stride divides no chunk of 100.
    found = learnings(SPEC, Sliding(32, 8), monkeypatch)
    assert [(first, stop) for first, stop, _ in found[:3]] == [(0, 104), (104, 200), (200, 304)]
    assert found[-1][1] == 704
    assert len(IDS) - 1 == 707


@pytest.mark.parametrize(
    "settings",
    [
        {"chunk": 0},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"clip": 0.0},
        {"final_rate": 1.1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        ScoreFirstSgd(**settings)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_two_learners_learn_the_same_to_the_last_bit() -> None:
    torch.manual_seed(1)
    layer = Block(Attention(heads=8, key_value_heads=4), SquaredMlp(hidden=512))
    model = Model(width=256, layers=(layer,) * 3, vocabulary=TOKENIZER.vocabulary).build().cuda()
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ids, starts = token_stream(TOKENIZER, [bytes(np.random.default_rng(2).integers(97, 107, 20_000))] * 2)
    spec = ScoreFirstSgd(chunk=8192, length=512, rows=8, learning_rate=0.05)
    learned = []
    for _ in range(3):
        session = Session(TOKENIZER, ids, starts, Track.adaptive())
        session.record(np.arange(16_384), np.ones(16_384))
        learner = spec.learner(model)
        learner.learn(session, [(0, 8192)], 0.0)
        learner.learn(session, [(8192, 16_384)], 0.5)
        learned.append(torch.cat([parameter.detach().flatten() for parameter in learner.model.parameters()]))
    assert torch.equal(learned[0], learned[1])
    assert torch.equal(learned[0], learned[2])
    assert not torch.are_deterministic_algorithms_enabled()
