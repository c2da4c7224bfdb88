"""The match model: what it finds, what it makes of it, and that nothing but earlier tokens matters."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_lora import BYTES as TOKENIZER
from toy_lora import untrained

from bytegolf.errors import PackedError, RecipeError
from bytegolf.evaluation.adaptation import DocumentLora, MatchModel, ScoreFirstSgd, match_model
from bytegolf.evaluation.adaptation.match_model import WEIGHTS, Hint
from bytegolf.evaluation.adaptation.matches import LONGEST, ORDERS, Matcher, Matches, matches_of
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.codec import pack, parallel_ledger, unpack
from bytegolf.evaluation.proof.causality import causality
from bytegolf.evaluation.proof.normalization import normalization
from bytegolf.evaluation.proof.subject import Passage, Subject
from bytegolf.evaluation.windows import PerDocument, Plan, Sliding

TEXTS = [
    "the cat sat on the mat. " * 6,
    "a dog did, too, and the cat sat. " * 5,
    "abc",
    "the cat sat on the mat. " * 4,
]
IDS, STARTS = token_stream(TOKENIZER, TEXTS)
BOS = 1000

#: Documents of few different tokens, so that there is much to match.
documents = st.lists(st.lists(st.integers(0, 3), max_size=80), min_size=1, max_size=4)


def stream(parts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids, starts = [], []
    for part in parts:
        starts.append(len(ids))
        ids += [BOS, *part]
    return np.array([*ids, BOS]), np.array(starts)


def by_definition(ids: np.ndarray, starts: np.ndarray) -> Matches:
    """Every earlier place compared, token by token."""
    found = Matches.none(len(ids) - 1)
    for target in range(len(ids) - 1):
        first = int(starts[starts <= target].max()) + 1
        for order in reversed(ORDERS):
            if target - order + 1 < first:
                continue
            context = ids[target - order + 1 : target + 1].tolist()
            places = [
                place
                for place in range(first + order - 1, target)
                if ids[place - order + 1 : place + 1].tolist() == context
            ]
            if places:
                followers = [int(ids[place + 1]) for place in places]
                found.ids[target] = followers[-1]
                found.lengths[target], found.occurrences[target] = order, len(places)
                found.followed[target] = followers.count(followers[-1])
                found.distances[target] = target - places[-1]
                break
    return found


def same(ours: Matches, theirs: Matches) -> None:
    for name in ("ids", "lengths", "occurrences", "followed", "distances"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name


@given(documents)
def test_matches_are_those_of_the_definition(parts: list[list[int]]) -> None:
    ids, starts = stream(parts)
    same(matches_of(ids, starts), by_definition(ids, starts))


@given(documents)
def test_a_token_at_a_time_finds_the_same(parts: list[list[int]]) -> None:
    ids, starts = stream(parts)
    matcher, is_start = Matcher(1), np.isin(np.arange(len(ids)), starts)
    rows = [matcher.read(ids[i : i + 1], is_start[i : i + 1]) for i in range(len(ids) - 1)]
    names = Matches.__annotations__
    joined = Matches(*(np.concatenate([getattr(row, name) for row in rows]) for name in names))
    same(joined, matches_of(ids, starts))


def test_streams_do_not_know_of_each_other() -> None:
    one, other = stream([[1, 2, 3, 1, 2]]), stream([[7, 7, 7, 7, 7]])
    matcher = Matcher(2)
    for place in range(6):
        tokens = np.array([one[0][place], other[0][place]])
        found = matcher.read(tokens, np.array([place == 0] * 2))
    assert found.ids.tolist() == [3, 7]
    assert found.lengths.tolist() == [2, 4]


def test_a_long_repeat_is_found_at_its_whole_length() -> None:
    part = list(range(100, 100 + LONGEST + 8))
    ids, starts = stream([[*part, 5, *part]])
    last = matches_of(ids, starts).at(np.array([len(ids) - 3]))
    assert (last.ids[0], last.lengths[0]) == (part[-1], LONGEST)
    assert (last.occurrences[0], last.followed[0], last.distances[0]) == (1, 1, len(part) + 1)


# The tilt


def some_matches(count: int, generator: np.random.Generator) -> Matches:
    occurrences = generator.integers(1, 30, count)
    found = Matches(
        generator.integers(0, 50, count),
        generator.choice(ORDERS, count),
        occurrences,
        generator.integers(1, occurrences + 1),
        generator.integers(1, 5000, count),
    )
    there, nothing = generator.random(count) < 0.7, Matches.none(count)
    names = Matches.__annotations__
    return Matches(*(np.where(there, getattr(found, name), getattr(nothing, name)) for name in names))


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20.0))
def test_tilted_distributions_sum_to_one_and_scores_are_theirs(seed: int, sharpness: float) -> None:
    generator = np.random.default_rng(seed)
    logs = torch.from_numpy(generator.normal(size=(40, 50)) * sharpness).float().log_softmax(-1)
    matches = some_matches(40, generator)
    spec = MatchModel(weights=tuple(generator.normal(size=len(WEIGHTS)).tolist()))
    tilted = spec.tilted(logs, matches)
    assert tilted.double().logsumexp(-1).abs().max() < 2e-6
    targets = torch.from_numpy(
        np.where(generator.random(40) < 0.5, matches.ids.clip(0), generator.integers(0, 50, 40))
    )
    expected = -tilted.gather(1, targets[:, None])[:, 0]
    nats = spec.tilted_nats(logs, targets, matches)
    assert torch.allclose(nats.float(), expected, rtol=1e-5, atol=2e-5)
    without = torch.from_numpy(matches.ids < 0)
    assert torch.equal(tilted[without], logs[without])


def test_the_shift_is_the_formula_s() -> None:
    weights = tuple(0.01 * (number + 1) * (-1) ** number for number in range(12))
    probabilities = torch.tensor([[0.25, 0.5, 0.125, 0.125]])
    matches = Matches(*(np.array([value]) for value in (2, 5, 7, 3, 11)))
    tilted = MatchModel(weights=weights).tilted(probabilities.log(), matches)
    p, c, miss, length, distance = 0.125, math.log(3), math.log(5), math.log(5), math.log(11)
    entropy = 0.25 * math.log(4) + 0.5 * math.log(2) + 0.25 * math.log(8)
    x, w = math.log(p / (1 - p)), weights
    shift = (
        w[0] + w[1] * c + w[2] * miss + w[4] * length**2 + w[5] * distance + w[6] * entropy * x + w[7] * x**2
    )
    shift += x * (w[8] + w[9] * length + w[10] * c + w[11] * miss)
    expected = p * math.exp(shift) / (1 + p * (math.exp(shift) - 1))
    assert math.exp(tilted[0, 2]) == pytest.approx(expected, rel=1e-5)
    # The others keep their ratios.
    assert math.exp(tilted[0, 1] - tilted[0, 0]) == pytest.approx(2.0, rel=1e-5)


def test_weights_of_zero_change_nothing() -> None:
    generator = np.random.default_rng(0)
    logs = torch.from_numpy(generator.normal(size=(40, 50))).log_softmax(-1)
    tilted = MatchModel(weights=(0.0,) * 12).tilted(logs, some_matches(40, generator))
    assert torch.allclose(tilted, logs, rtol=0, atol=1e-13)


def test_certain_and_impossible_tokens_stay_numbers() -> None:
    logs = torch.tensor([[0.0, -200.0], [-200.0, 0.0]])
    matches = Matches(*(np.array([value] * 2) for value in (0, 32, 9, 9, 1)))
    assert torch.isfinite(MatchModel().tilted(logs, matches)).all()


def test_a_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match="weights has 2 numbers; give 12"):
        MatchModel(weights=(1.0, 2.0))


# On a model


MODEL = untrained()
LORA = DocumentLora(rank=2, chunk=8, length=32, learning_rate=0.01)
SGD = ScoreFirstSgd(chunk=100, length=16, rows=4, epochs=2, learning_rate=0.05)
LEARNERS = [None, LORA, replace(LORA, context="kept"), SGD]


@pytest.mark.parametrize("learner", LEARNERS, ids=["alone", "adapters", "adapters, kept", "sgd"])
def test_repetition_costs_less_with_it(learner: DocumentLora | ScoreFirstSgd | None) -> None:
    plain = score(MODEL, TOKENIZER, IDS, STARTS, PerDocument(32, 8), adaptation=learner)
    matched = score(MODEL, TOKENIZER, IDS, STARTS, PerDocument(32, 8), adaptation=MatchModel(learner))
    assert matched.plan == f"{plain.plan.removesuffix(', adaptive')}, adaptive"
    assert matched.bits_per_byte < 0.8 * plain.bits_per_byte


@pytest.mark.parametrize("learner", LEARNERS[:3], ids=["alone", "adapters", "adapters, kept"])
def test_documents_know_nothing_of_each_other(learner: DocumentLora | None) -> None:
    together = score(MODEL, TOKENIZER, IDS, STARTS, PerDocument(32, 8), adaptation=MatchModel(learner))
    ends = [*STARTS.tolist(), len(IDS) - 1]
    for text, first, stop in zip(TEXTS, ends, ends[1:], strict=False):
        ids, starts = token_stream(TOKENIZER, [text])
        alone = score(MODEL, TOKENIZER, ids, starts, PerDocument(32, 8), adaptation=MatchModel(learner))
        assert np.allclose(alone.nats_N, together.nats_N[first:stop], atol=1e-4)


@pytest.mark.parametrize("learner", LEARNERS, ids=["alone", "adapters", "adapters, kept", "sgd"])
@pytest.mark.parametrize("plan", [Sliding(32, 8), PerDocument(32, 16)])
def test_it_keeps_the_rules(learner: DocumentLora | ScoreFirstSgd | None, plan: Plan) -> None:
    subject = Subject.adaptive(MODEL, TOKENIZER, plan, MatchModel(learner))
    passage = Passage(IDS, STARTS)
    for verdict in (causality(subject, passage, positions=16), normalization(subject, passage, positions=16)):
        assert verdict.outcome == "pass", verdict.sentence


class Unnormalized(MatchModel):
    """Raises one probability and lowers no other."""

    def tilted_nats(self, logs_MV: torch.Tensor, targets_M: torch.Tensor, matches: Matches) -> torch.Tensor:
        hint = Hint.of(logs_MV, matches)
        own_M = logs_MV.gather(1, targets_M[:, None])[:, 0].double()
        return -own_M.clamp(max=-0.5) - 0.3 * (targets_M == hint.ids_M) * hint.there_M


class Peeking(MatchModel):
    """Tilts only where the match is right, which the token itself tells."""

    def tilted_nats(self, logs_MV: torch.Tensor, targets_M: torch.Tensor, matches: Matches) -> torch.Tensor:
        own_M = logs_MV.gather(1, targets_M[:, None])[:, 0].double()
        right_M = targets_M == Hint.of(logs_MV, matches).ids_M
        return torch.where(right_M, super().tilted_nats(logs_MV, targets_M, matches), -own_M)


@pytest.mark.parametrize("kind", [Unnormalized, Peeking])
def test_a_tilt_that_does_not_sum_to_one_is_found_out(kind: type[MatchModel]) -> None:
    subject = Subject.adaptive(MODEL, TOKENIZER, PerDocument(32, 8), kind())
    verdict = normalization(subject, Passage(IDS, STARTS), positions=16)
    assert verdict.outcome == "fail"
    assert "every id in a target's place" in verdict.sentence


@pytest.mark.parametrize("learner", [None, SGD], ids=["alone", "sgd"])
def test_a_packed_text_comes_back(learner: ScoreFirstSgd | None) -> None:
    data, digest, spec = "".join(TEXTS).encode(), b"12345678", MatchModel(learner)
    report = pack(MODEL, TOKENIZER, data, digest, Sliding(32, 16), streams=3, adaptation=spec)
    plain = pack(MODEL, TOKENIZER, data, digest, Sliding(32, 16), streams=3, adaptation=learner)
    assert len(b"".join(b.words for b in report.packed.blocks)) < len(
        b"".join(b.words for b in plain.packed.blocks)
    )
    assert unpack(MODEL, TOKENIZER, report.packed, digest, adaptation=spec) == data
    whole = parallel_ledger(MODEL, TOKENIZER, report.ids, report.packed.layout, adaptation=spec)
    assert np.allclose(whole.nats, report.ledger.nats, atol=1e-3)


def test_documents_learned_from_one_by_one_cannot_be_packed() -> None:
    with pytest.raises(PackedError, match="each document by itself"):
        pack(MODEL, TOKENIZER, b"abc", b"12345678", Sliding(8, 4), adaptation=MatchModel(LORA))


@pytest.mark.parametrize("learner", LEARNERS[:3], ids=["alone", "adapters", "adapters, kept"])
def test_distributions_made_a_few_at_a_time_are_the_same(
    learner: DocumentLora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(MODEL, TOKENIZER, IDS, STARTS, PerDocument(32, 8), adaptation=MatchModel(learner))
    monkeypatch.setattr(match_model, "_SLAB_ENTRIES", 3 * TOKENIZER.vocabulary)
    parts = score(MODEL, TOKENIZER, IDS, STARTS, PerDocument(32, 8), adaptation=MatchModel(learner))
    assert np.allclose(whole.nats_N, parts.nats_N, atol=1e-4)
