"""LoRA on each document: the published steps, forgotten at its end, in the order that a session keeps."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from toy_lora import BYTES, IDS, STARTS, TEXTS, network

from bytegolf.errors import PackedError, RecipeError
from bytegolf.evaluation.adaptation import Adaptation, DocumentLora, ScoreFirstSgd
from bytegolf.evaluation.bits import score, score_session, token_stream
from bytegolf.evaluation.codec import pack
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.proof.conditions import conditions
from bytegolf.evaluation.proof.subject import Passage, Subject, take
from bytegolf.evaluation.windows import Chunked, PerDocument, Plan, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.linear import Linear
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import Role
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tree import from_json, to_json

SPEC = DocumentLora(rank=4, chunk=16, length=40, learning_rate=0.03)
HEADLINE = Chunked(32)


MODEL = network()


def adapted(spec: DocumentLora = SPEC, **settings: Any) -> np.ndarray:
    return score(MODEL, BYTES, IDS, STARTS, HEADLINE, adaptation=spec, **settings).nats_N


def documents() -> Iterator[tuple[int, int]]:
    yield from zip(STARTS.tolist(), [*STARTS[1:].tolist(), len(IDS) - 1], strict=True)


def merged(
    model: LanguageModel, a: dict[str, Tensor], b: dict[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """The weights with every low-rank product added to its matrix."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return weights | {name: weights[name] + scale * (a[name] @ b[name]).mT for name in a}


def one_by_one(spec: DocumentLora) -> np.ndarray:
    """The published loop document by document: products merged into weights, Adam written out."""
    nats = np.zeros(len(IDS) - 1)
    generator = torch.Generator().manual_seed(0)
    fresh: dict[str, Tensor] = {}
    scale = 1.0 if spec.alpha is None else spec.alpha / spec.rank
    for name, module in MODEL.named_modules():
        if isinstance(module, Linear) and module.roles["weight"] in spec.targets:
            inputs = module.weight.shape[1]
            start = torch.empty(inputs, spec.rank).uniform_(-1.0, 1.0, generator=generator)
            fresh[f"{name}.weight"] = start.double() * inputs**-0.5
    for first, last in documents():
        a = {name: value.clone().requires_grad_() for name, value in fresh.items()}
        b = {
            name: torch.zeros(spec.rank, MODEL.get_parameter(name).shape[0], dtype=torch.float64)
            for name in fresh
        }
        factors = [*a.values(), *(value.requires_grad_() for value in b.values())]
        moments = [(torch.zeros_like(factor), torch.zeros_like(factor)) for factor in factors]
        step = 0
        for scored in range(first, last, spec.chunk):
            stop = min(scored + spec.chunk, last)
            start = max(first, scored + spec.chunk - spec.length)
            ids = torch.from_numpy(IDS[None, start : stop + 1])
            starts = torch.zeros(1, stop - start, dtype=torch.bool)
            starts[0, 0] = start == first
            losses = functional_call(MODEL, merged(MODEL, a, b, scale), (ids[:, :-1], ids[:, 1:], starts))
            nats[scored:stop] = losses[0, scored - start :].detach()
            if stop == last:
                continue
            for again in range(spec.steps):
                if again:
                    losses = functional_call(
                        MODEL, merged(MODEL, a, b, scale), (ids[:, :-1], ids[:, 1:], starts)
                    )
                gradients = torch.autograd.grad(losses[0, scored - start :].mean(), factors)
                step += 1
                with torch.no_grad():
                    for factor, gradient, (mean, square) in zip(factors, gradients, moments, strict=True):
                        mean.lerp_(gradient, 1 - spec.beta1)
                        square.lerp_(gradient.square(), 1 - spec.beta2)
                        root = (square / (1 - spec.beta2**step)).sqrt() + spec.epsilon
                        factor *= 1 - spec.learning_rate * spec.weight_decay
                        factor -= spec.learning_rate * mean / (1 - spec.beta1**step) / root
    return nats


LATER_SETTINGS: dict[str, Any] = {"alpha": 9.0, "beta1": 0.0, "beta2": 0.99, "epsilon": 1e-10}


@pytest.mark.parametrize("settings", [{}, LATER_SETTINGS | {"weight_decay": 2.0}, {"steps": 2}])
def test_it_is_the_published_loop(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference needs a module whose call is the loss.
    monkeypatch.setattr(LanguageModel, "forward", LanguageModel.losses)
    targets = (Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.MLP_UP)
    spec = replace(SPEC, targets=targets, **settings)
    expected, found = one_by_one(spec), adapted(spec)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    plain = score(MODEL, BYTES, IDS, STARTS, PerDocument(40, 16)).nats_N
    assert np.abs(found - plain).max() > 0.1


def test_the_first_chunk_of_each_document_is_scored_by_the_model_as_it_came() -> None:
    plain, found = score(MODEL, BYTES, IDS, STARTS, PerDocument(40, 16)).nats_N, adapted()
    for first, last in documents():
        chunk = slice(first, min(first + SPEC.chunk, last))
        np.testing.assert_allclose(found[chunk], plain[chunk], rtol=0, atol=1e-10)
        if last > first + SPEC.chunk:
            later = slice(first + SPEC.chunk, last)
            assert (np.abs(found[later] - plain[later]) > 1e-6).all()


def test_repetition_is_learned_and_forgotten_at_the_end_of_the_document() -> None:
    before = copy.deepcopy(MODEL.state_dict())
    result = score(MODEL, BYTES, IDS, STARTS, HEADLINE, adaptation=SPEC)
    assert result.plan == "per document, chunks of 16 in 40, adaptive"
    plain = score(MODEL, BYTES, IDS, STARTS, PerDocument(40, 16))
    assert result.bits_per_byte < 0.97 * plain.bits_per_byte
    # The same document again scores the same: nothing was left of the first time.
    size = len(TEXTS[0]) + 1
    again = result.nats_N[STARTS[4] : STARTS[4] + size]
    np.testing.assert_allclose(again, result.nats_N[:size], rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert MODEL.head_adapter is None
    assert all(module.adapter is None for module in MODEL.modules() if isinstance(module, Linear))
    repeated = score(MODEL, BYTES, IDS, STARTS, HEADLINE, adaptation=SPEC)
    assert repeated.nats_N.tolist() == result.nats_N.tolist()


@pytest.mark.parametrize("per_pass", [1, 60, 130, 10_000])
def test_how_many_documents_lie_side_by_side_does_not_matter(per_pass: int) -> None:
    np.testing.assert_allclose(adapted(tokens_per_pass=per_pass), adapted(), rtol=0, atol=1e-9)


def test_only_whole_chunks_are_learned_from_and_never_a_document_s_last() -> None:
    class Watched(Session):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.released: list[tuple[int, int]] = []

        def release(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            self.released.append((first, stop))
            return super().release(first, stop)

    session = Watched(BYTES, IDS, STARTS, Track.adaptive())
    told: list[tuple[int, int]] = []
    score_session(
        MODEL,
        session,
        SPEC.plan(HEADLINE).windows(STARTS, session.targets),
        adaptation=SPEC,
        watch=lambda *done: told.append(done),
    )
    expected = [
        (place, place + SPEC.chunk)
        for first, last in documents()
        for place in range(first, last - SPEC.chunk, SPEC.chunk)
    ]
    assert sorted(session.released) == expected
    # A document of just two chunks learns once, one of a chunk or less never.
    assert [last - first for first, last in documents()].count(32) == 1
    assert told == sorted(set(told))
    assert told[-1] == (len(IDS) - 1, len(IDS) - 1)
    # Every chunk has its score before the pass that follows it.
    ledger = session.close()
    for first, last in documents():
        assert (np.diff(ledger.passes[first:last]) >= 0).all()
        assert len(set(ledger.passes[first:last])) == -(-(last - first) // SPEC.chunk)


def test_learning_is_refused_on_the_fixed_track() -> None:
    subject = replace(Subject.adaptive(MODEL, BYTES, HEADLINE, SPEC), track=Track.fixed())
    assert "fixed track" in subject.score(Passage(IDS, STARTS)).error


def test_all_conditions_hold_while_it_learns() -> None:
    texts = [text.encode() for text in TEXTS]
    subject = Subject.adaptive(MODEL, BYTES, HEADLINE, SPEC)
    passage = Passage.of(BYTES, texts)
    found = list(conditions(subject, texts, passage, take(subject, passage), positions=24))
    assert [verdict.outcome for verdict in found] == ["pass"] * 4, found
    assert subject.plan_name == "per document, chunks of 16 in 40, adaptive"


def test_contexts_are_those_of_the_plan_per_document() -> None:
    def contexts(plan: Plan) -> list[int]:
        windows = list(plan.windows(STARTS, len(IDS) - 1))
        return [window.start for window in windows for _ in range(window.scored, window.stop)]

    assert contexts(replace(SPEC, length=48).plan(HEADLINE)) == contexts(PerDocument(48, 16))


def test_a_packed_text_cannot_be_learned_from_by_documents() -> None:
    with pytest.raises(PackedError, match=r"DocumentLora .* pack without --adapt"):
        pack(MODEL, BYTES, b"some text", bytes(32), Sliding(16, 8), adaptation=SPEC)


@pytest.mark.parametrize("spec", [SPEC, ScoreFirstSgd(final_rate=0.5)])
def test_either_way_to_learn_is_plain_data(spec: Adaptation) -> None:
    assert from_json(Adaptation, json.loads(json.dumps(to_json(spec)))) == spec


def test_a_role_that_no_matrix_has_is_named() -> None:
    model = network()
    for module in model.modules():
        if isinstance(module, Linear):
            module.roles["weight"] = Role.ATTENTION_KEY
    with pytest.raises(RecipeError, match="targets names attention_query, attention_value, but the model"):
        score(model, BYTES, IDS, STARTS, HEADLINE, adaptation=SPEC)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rank": 0}, "rank=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"length": 255}, "length=255 is shorter than chunk=256"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"beta2": 1.0}, "beta2=1.0"),
        ({"steps": 0}, "steps=0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"weight_decay": 200.0}, "weight_decay=200.0"),
        ({"warm_start": 0}, "warm_start=0"),
        ({"stride": 8}, "stride=8"),
        ({"stride": 0, "context": "kept"}, "stride=0"),
        ({"stride": 2000, "context": "kept"}, "give 1 to"),
        ({"targets": ()}, "targets=none"),
        ({"targets": (Role.SCALAR,)}, "targets=scalar; name one or more of .*attention_query"),
    ],
)
def test_adapters_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        DocumentLora(**settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_scores_repeat_to_the_last_bit() -> None:
    torch.manual_seed(0)
    block = Block(Attention(heads=4, key_value_heads=2), SquaredMlp(256))
    model = Model(width=128, layers=(block,) * 3, vocabulary=BYTES.vocabulary).build().cuda()
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    random = np.random.default_rng(1)
    texts = [bytes(random.integers(97, 107, length)) for length in (3000, 700, 2500, 1500)]
    ids, starts = token_stream(BYTES, texts)
    spec = DocumentLora(rank=8, chunk=256, length=1024, learning_rate=0.01)
    first, *others = (score(model, BYTES, ids, starts, HEADLINE, adaptation=spec).nats_N for _ in range(3))
    assert all(np.array_equal(first, other) for other in others)
    plain = score(model, BYTES, ids, starts, spec.plan(HEADLINE)).nats_N
    assert not np.allclose(first, plain, atol=1e-3)
