"""Phases: all weights learn from whole documents, the promised ones, at the promised places."""

import copy
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_lora import BYTES, IDS, SPANS, STARTS, TEXTS, Watched, network

from bytegolf.errors import LegalityError, PackedError, RecipeError
from bytegolf.evaluation.adaptation import Adaptation, DocumentLora, Phases, ScoreFirstSgd
from bytegolf.evaluation.adaptation.documents import by_document, span
from bytegolf.evaluation.adaptation.sgd import SgdLearner
from bytegolf.evaluation.bits import score, score_session, token_stream
from bytegolf.evaluation.codec import pack
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import Watch
from bytegolf.evaluation.proof.causality import causality
from bytegolf.evaluation.proof.conditions import conditions
from bytegolf.evaluation.proof.subject import Passage, Subject, take
from bytegolf.evaluation.windows import Chunked, PerDocument, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tree import from_json, to_json

SGD = ScoreFirstSgd(chunk=64, length=16, rows=2, epochs=1, learning_rate=0.05)
PHASES = Phases(prefix=6, count=3, order="text", sgd=SGD)
LORA = DocumentLora(rank=2, chunk=16, length=40, learning_rate=0.03)
SPEC = replace(LORA, phases=PHASES)
HEADLINE = Chunked(32)
MODEL = network()
ORDERS: list[tuple[Any, list[int]]] = [("text", [*range(8)]), ("longest", [0, 4, 2, 6, 3, 7, 1, 5])]


def nats(spec: DocumentLora, model: LanguageModel = MODEL, **options: Any) -> np.ndarray:
    return score(model, BYTES, IDS, STARTS, HEADLINE, adaptation=spec, **options).nats_N


def documents(ids: np.ndarray = IDS, starts: np.ndarray = STARTS) -> list[Any]:
    session = Session(BYTES, ids, starts, Track.adaptive())
    return by_document(session, LORA.plan(HEADLINE).windows(starts, session.targets))


@pytest.mark.parametrize(("order", "numbers"), ORDERS)
def test_a_phase_learns_from_all_documents_scored_so_far_and_from_no_other(
    order: Any, numbers: list[int]
) -> None:
    """Each section scores as the model of its time would, adapters and all."""
    spec = replace(SPEC, phases=replace(PHASES, order=order))
    found = nats(spec)
    model = copy.deepcopy(MODEL)
    for first in range(0, 8, 2):
        scored = [SPANS[number] for number in numbers[:first]]
        if scored:
            session = Session(BYTES, IDS, STARTS, Track.adaptive())
            session.record(np.arange(len(IDS) - 1), np.ones(len(IDS) - 1))
            learn_by_hand(model, session, scored)
        expected = nats(LORA, model)
        for number in numbers[first : first + 2]:
            own = slice(*SPANS[number])
            np.testing.assert_allclose(found[own], expected[own], rtol=0, atol=1e-9)
    assert np.abs(found - nats(LORA)).max() > 0.1


def learn_by_hand(model: LanguageModel, session: Session, spans: Sequence[tuple[int, int]]) -> None:
    """Target by target into chunks of 64; a rate that falls to 0 over them, momentum from zero."""
    joined = [target for first, stop in spans for target in range(first, stop)]
    chunks = [joined[place : place + SGD.chunk] for place in range(0, len(joined), SGD.chunk)]
    learner = SgdLearner(SGD, model)
    for number, chunk in enumerate(chunks):
        breaks = [0, *(i for i in range(1, len(chunk)) if chunk[i] != chunk[i - 1] + 1), len(chunk)]
        pieces = [(chunk[a], chunk[b - 1] + 1) for a, b in itertools.pairwise(breaks)]
        learner.learn(session, pieces, number / max(1, len(chunks) - 1))


@pytest.mark.parametrize(("order", "numbers"), ORDERS)
def test_nothing_is_learned_before_its_score(order: Any, numbers: list[int]) -> None:
    spec = replace(SPEC, phases=replace(PHASES, order=order))
    session = Watched(BYTES, IDS, STARTS, Track.adaptive())
    score_session(MODEL, session, spec.plan(HEADLINE).windows(STARTS, session.targets), adaptation=spec)
    ledger = session.close()
    assert set(ledger.passes) == set(range(ledger.passes.max() + 1))
    sizes = [stop - first for first, stop in SPANS]
    ends = np.cumsum([sizes[number] for number in numbers])[[1, 3, 5]].tolist()
    whole = [
        (first, stop, scored)
        for (first, stop), scored in zip(session.released, session.scored_by_then, strict=True)
        if scored in ends
    ]
    for end, count in zip(ends, (2, 4, 6), strict=True):
        learned = np.zeros(len(IDS) - 1, dtype=int)
        for first, stop, scored in whole:
            learned[first:stop] += scored == end
        expected = np.zeros_like(learned)
        for number in numbers[:count]:
            expected[slice(*SPANS[number])] = 1
        assert learned.tolist() == expected.tolist()


def test_what_has_no_score_cannot_be_learned_from() -> None:
    session = Session(BYTES, IDS, STARTS, Track.adaptive())
    session.record(np.arange(*SPANS[0]), np.ones(SPANS[0][1]))
    model = copy.deepcopy(MODEL)
    PHASES.learn(model, session, documents()[:1])
    with pytest.raises(LegalityError, match="before its score"):
        PHASES.learn(model, session, documents()[:2])


def test_documents_begin_where_they_begin_and_rates_fall_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[int], float]] = []

    def step(
        self: SgdLearner, ids: np.ndarray, targets: np.ndarray, starts: np.ndarray, *, rate: float
    ) -> None:
        seen.append((len(ids), np.flatnonzero(starts).tolist(), rate))

    monkeypatch.setattr(SgdLearner, "_step", step)
    session = Session(BYTES, IDS, STARTS, Track.adaptive())
    session.record(np.arange(len(IDS) - 1), np.ones(len(IDS) - 1))
    learned = [documents()[number] for number in (0, 1, 3)]
    Phases(sgd=replace(SGD, rows=4)).learn(copy.deepcopy(MODEL), session, learned)
    # 121, 6 and 40 targets in chunks of 64; a cut document goes on as one that begins.
    rates = [0.05 * 0.5 * (1 + math.cos(math.pi * chunk / 2)) for chunk in range(3)]
    assert seen == [
        (64, [0], pytest.approx(rates[0])),
        (64, [0, 57, 63], pytest.approx(rates[1])),
        (39, [0], pytest.approx(0.0, abs=1e-12)),
    ]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    prefix=st.integers(1, 20),
    count=st.integers(1, 5),
    order=st.sampled_from(["longest", "text"]),
)
def test_sections_hold_every_document_once_and_end_where_the_prefix_says(
    sizes: list[int], prefix: int, count: int, order: Any
) -> None:
    ids, starts = token_stream(BYTES, ["a" * size for size in [*sizes, 1]])
    texts = documents(ids, starts)
    phases = Phases(max(prefix, count), count, order)
    sections = phases.sections(texts)
    joined = [span(document) for section in sections for document in section]
    lengths = [stop - first for first, stop in joined]
    assert sorted(joined) == [span(document) for document in texts]
    assert joined == sorted(joined) if order == "text" else lengths == sorted(lengths, reverse=True)
    assert all(sections)
    borders = {phases.prefix * (phase + 1) // count for phase in range(count)}
    ends = np.cumsum([len(section) for section in sections])[:-1].tolist()
    assert ends == sorted(border for border in borders if border < len(texts))
    # The first one waits for as many documents as a proof may score together.
    assert len(sections[0]) == min(phases.first, len(texts))


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, context="kept", warm_start=2)])
def test_scores_repeat_and_do_not_depend_on_how_many_lie_side_by_side(spec: DocumentLora) -> None:
    expected = nats(spec)
    assert nats(spec).tolist() == expected.tolist()
    np.testing.assert_allclose(nats(spec, tokens_per_pass=60), expected, rtol=0, atol=1e-9)


def test_a_later_text_changes_no_score_in_the_order_of_the_text() -> None:
    first, shorter = SPANS[5][0], STARTS[:5]
    part = score(MODEL, BYTES, IDS[: first + 1], shorter, HEADLINE, adaptation=SPEC).nats_N
    np.testing.assert_allclose(part, nats(SPEC)[:first], rtol=0, atol=1e-9)


@pytest.mark.parametrize("prefix", [8, 9, 2500])
def test_more_documents_than_the_text_has_are_never_waited_for(prefix: int) -> None:
    late = replace(SPEC, phases=replace(PHASES, prefix=prefix, count=1))
    assert nats(late).tolist() == nats(LORA).tolist()
    ids, starts = token_stream(BYTES, TEXTS[:1])
    alone = [
        score(MODEL, BYTES, ids, starts, HEADLINE, adaptation=spec).nats_N.tolist() for spec in (SPEC, LORA)
    ]
    assert alone[0] == alone[1]


def test_documents_too_short_for_adapters_learn_in_phases() -> None:
    ids, starts = token_stream(BYTES, ["cat sat"] * 6)
    found = score(MODEL, BYTES, ids, starts, HEADLINE, adaptation=SPEC).nats_N.reshape(6, 8).sum(axis=1)
    plain = score(MODEL, BYTES, ids, starts, PerDocument(40, 16)).nats_N.reshape(6, 8).sum(axis=1)
    np.testing.assert_allclose(found[:2], plain[:2])
    assert (found[2:4] < 0.97 * plain[2:4]).all()
    assert (found[4:] < found[2:4]).all()


def test_all_conditions_hold_whatever_the_order() -> None:
    texts = [text.encode() for text in TEXTS]
    spec = replace(SPEC, phases=replace(PHASES, order="longest"))
    subject = Subject.adaptive(MODEL, BYTES, HEADLINE, spec)
    passage = Passage.of(BYTES, texts)
    found = list(conditions(subject, texts, passage, take(subject, passage), positions=8))
    assert [verdict.outcome for verdict in found] == ["pass"] * 4, found


class Hasty(DocumentLora):
    """Learns from the document to come, through a session of its own."""

    def score(
        self, model: LanguageModel, session: Session, windows: Any, tokens_per_pass: Any, watch: Watch
    ) -> None:
        texts = by_document(session, windows)
        first, stop = span(texts[-1])
        index = np.arange(first, stop + 1)
        stolen = Session(BYTES, session._ids[index], np.array([0]), Track.adaptive())
        stolen.record(np.arange(stop - first), np.ones(stop - first))
        model = copy.deepcopy(model)
        SgdLearner(SGD, model).learn(stolen, [(0, stop - first)], 0.0)
        super().score(model, session, (window for text in texts for window in text), tokens_per_pass, watch)


def test_a_phase_that_comes_too_early_breaks_causality() -> None:
    spec = Hasty(rank=2, chunk=16, length=40, learning_rate=0.03, phases=PHASES)
    subject = Subject.adaptive(MODEL, BYTES, HEADLINE, spec)
    found = causality(subject, Passage.of(BYTES, [text.encode() for text in TEXTS]), positions=8)
    assert found.outcome == "fail"


def test_phases_leave_the_model_alone() -> None:
    before = copy.deepcopy(MODEL.state_dict())
    nats(SPEC)
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert all(parameter.requires_grad for parameter in MODEL.parameters())


def test_phases_are_plain_data() -> None:
    spec = replace(SPEC, phases=Phases())
    assert from_json(Adaptation, json.loads(json.dumps(to_json(spec)))) == spec
    assert spec.phases is not None
    assert spec.phases.sgd == ScoreFirstSgd(
        chunk=32_768, length=2048, rows=32, epochs=1, learning_rate=0.001, momentum=0.9, clip=1.0
    )


@pytest.mark.parametrize("chosen", [{"count": 0}, {"prefix": 2, "count": 3}])
def test_phases_that_cannot_work_are_refused(chosen: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="at least one phase and a document for each"):
        Phases(**chosen)


def test_a_packed_text_has_no_documents_for_phases() -> None:
    with pytest.raises(PackedError, match=r"DocumentLora .* pack without --adapt"):
        pack(MODEL, BYTES, b"some text", bytes(32), Sliding(16, 8), adaptation=SPEC)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("context", ["reread", "kept"])
def test_on_a_gpu_phases_and_either_context_repeat_to_the_last_bit(context: Any) -> None:
    torch.manual_seed(0)
    block = Block(Attention(heads=4, key_value_heads=2), SquaredMlp(256))
    layers = Model(width=128, layers=(block,) * 3, loop=Loop(1, 1, 2), vocabulary=BYTES.vocabulary)
    model = layers.build().cuda()
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    random = np.random.default_rng(1)
    texts = [bytes(random.integers(97, 107, length)) for length in (3000, 700, 2500, 1500, 40)]
    ids, starts = token_stream(BYTES, texts)
    sgd = ScoreFirstSgd(chunk=1024, length=512, rows=2, epochs=1, learning_rate=0.01)
    spec = DocumentLora(
        rank=8,
        chunk=48,
        length=1024,
        learning_rate=0.001,
        alpha=16.0,
        beta1=0.0,
        weight_decay=0.5,
        epsilon=1e-10,
        per_pass=True,
        warm_start=2,
        context=context,
        phases=Phases(prefix=4, count=2, sgd=sgd),
    )
    first, *others = (score(model, BYTES, ids, starts, HEADLINE, adaptation=spec).nats_N for _ in range(3))
    assert all(np.array_equal(first, other) for other in others)
    assert np.isfinite(first).all()
    still = replace(spec, learning_rate=1e-30, epsilon=1.0, phases=None)
    unmoved = score(model, BYTES, ids, starts, HEADLINE, adaptation=still).nats_N
    plain = score(model, BYTES, ids, starts, spec.plan(HEADLINE)).nats_N
    # Keys of the same tokens come from products of other shapes, in 16 bits.
    np.testing.assert_allclose(unmoved, plain, rtol=0, atol=0.1)
    assert abs(unmoved.mean() - plain.mean()) < 2e-3
    assert np.abs(first - unmoved).max() > 1e-2
