"""Ways to a better score that are none: each is caught, by the name of the condition that it breaks."""

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.evaluation.bits import score_session
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import score_windows
from bytegolf.evaluation.proof.conditions import conditions
from bytegolf.evaluation.proof.records import split
from bytegolf.evaluation.proof.subject import Passage, Subject, Watch, take
from bytegolf.evaluation.proof.verdict import BYTES, CAUSALITY, NORMALIZATION, ORDER, SPLIT, Verdict
from bytegolf.evaluation.windows import Chunked, PerDocument, Sliding, Window, WindowPlan
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding, TiedEmbeddingLayer
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream
from bytegolf.text.documents import Document
from bytegolf.tokens.cleanliness import check_split
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.shards import prepare
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer
from bytegolf.tokens.training import train_sentencepiece

BYTE_TOKENS = ByteTokenizer()
TEXTS = [
    "".join(
        f"{i * i % 97} is the square of {i} modulo ninety-seven.\n" for i in range(first, first + 3)
    ).encode()
    for first in range(0, 30, 3)
]
PLAN = Sliding(24, 8)
SPEC = Model(
    width=16,
    layers=(Block(Attention(2, 1), SquaredMlp(16)),) * 2,
    embedding=TiedEmbedding(0.5),
    vocabulary=BYTE_TOKENS.vocabulary,
)


def weighted(model: LanguageModel, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model with weights far from their start, where projections are zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.compute_dtype = dtype
    return model


def subject(model: LanguageModel | None = None, **changes: Any) -> Subject:
    honest = Subject(weighted(LanguageModel(SPEC)) if model is None else model, BYTE_TOKENS, PLAN)
    return dataclasses.replace(honest, **changes)


def verdicts(tried: Subject, texts: list[bytes] = TEXTS) -> dict[str, Verdict]:
    passage = Passage.of(tried.tokenizer, texts)
    found = conditions(tried, texts, passage, take(tried, passage), positions=48)
    return {verdict.condition: verdict for verdict in found}


def broken(tried: Subject) -> dict[str, str]:
    """The sentences of the conditions that fail, by their names."""
    return {name: v.sentence for name, v in verdicts(tried).items() if v.outcome == "fail"}


# Honest ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "plan", [Chunked(32), Sliding(24, 8), PerDocument(20, 5)], ids=lambda plan: plan.name
)
@pytest.mark.parametrize(
    "layers",
    [
        (Block(Attention(2, 1), SquaredMlp(16)),) * 2,
        (Block(Attention(2, 2, window=5), SwiGlu(12)), Block(Attention(4, 1), SwiGlu(12))),
    ],
    ids=["relu²", "SwiGLU and a window"],
)
def test_an_honest_model_passes(layers: tuple[Block, ...], plan: WindowPlan, dtype: torch.dtype) -> None:
    model = weighted(LanguageModel(dataclasses.replace(SPEC, layers=layers)), dtype)
    found = verdicts(subject(model, plan=plan))
    assert {name: verdict.outcome for name, verdict in found.items()} == dict.fromkeys(
        (CAUSALITY, NORMALIZATION, BYTES, ORDER), "pass"
    ), found
    numbers = found[CAUSALITY].numbers
    assert numbers["positions"] >= 48
    assert numbers["scores_compared"] > 500
    assert numbers["log_probabilities_compared"] > 500 * BYTE_TOKENS.vocabulary
    assert numbers["worst_change_nats"] == 0.0
    assert found[NORMALIZATION].numbers["distributions"] >= 48
    assert found[BYTES].numbers["ledger_bytes"] == sum(map(len, TEXTS))
    assert found[ORDER].numbers["scored"] == sum(map(len, TEXTS)) + len(TEXTS)


def test_pieces_pass_as_bytes_do() -> None:
    tokenizer = train_sentencepiece([Document(text.decode(), "") for text in TEXTS], 290)
    model = weighted(LanguageModel(dataclasses.replace(SPEC, vocabulary=tokenizer.vocabulary)))
    assert not broken(Subject(model, tokenizer, PLAN))


@pytest.mark.parametrize(
    "texts", [[b"one document, and a short one"], [b"a", b"", b"bc", b""], [b"\xff\xfe\x00"]]
)
def test_short_texts_pass_too(texts: list[bytes]) -> None:
    assert {verdict.outcome for verdict in verdicts(subject(), texts).values()} == {"pass"}


def test_learning_from_what_has_its_score_passes() -> None:
    adaptation = ScoreFirstSgd(chunk=128, length=32, rows=2, epochs=1, learning_rate=0.05)
    model = weighted(LanguageModel(SPEC))
    learning = Subject.adaptive(model, BYTE_TOKENS, PLAN, adaptation)
    assert not broken(learning)
    passage = Passage.of(BYTE_TOKENS, TEXTS)
    # The learning changes scores, so there was something to catch.
    assert take(learning, passage).witness.nats.sum() != take(subject(), passage).witness.nats.sum()


# Models that see what they must not


class Peeking(LanguageModel):
    """Sees the id that it is to predict."""

    def hidden(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        h_BTD = super().hidden(ids_BT, stream).clone()
        h_BTD[:, :-1] += 0.3 * self.embedding(ids_BT)[:, 1:]
        return h_BTD


class PeekingAtTwo(LanguageModel):
    """Sees the id behind the one that it is to predict."""

    def hidden(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        h_BTD = super().hidden(ids_BT, stream).clone()
        h_BTD[:, :-2] += 0.3 * self.embedding(ids_BT)[:, 2:]
        return h_BTD


class LeakyGate(TiedEmbeddingLayer):
    """x_t ← x_t + 0.3 x_{t−1} without a mask at document starts."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD = super().forward(ids_BT)
        return torch.cat([x_BTD[:, :1], x_BTD[:, 1:] + 0.3 * x_BTD[:, :-1]], dim=1)


class BatchMean(TiedEmbeddingLayer):
    """Subtracts the mean over the rows of a batch."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD = super().forward(ids_BT)
        return x_BTD - 0.1 * x_BTD.mean(dim=0, keepdim=True)


def with_embedding(kind: type[TiedEmbeddingLayer]) -> LanguageModel:
    model = LanguageModel(SPEC)
    model.embedding = kind(SPEC.embedding, SPEC.vocabulary, SPEC.width)
    return weighted(model)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (lambda: weighted(Peeking(SPEC)), "the token that it predicts"),
        (lambda: weighted(PeekingAtTwo(SPEC)), "later tokens of its document"),
        (lambda: with_embedding(LeakyGate), "the document before it in its row"),
        (lambda: with_embedding(BatchMean), "another row of its batch"),
    ],
    ids=["one ahead", "two ahead", "packed neighbour", "other rows"],
)
def test_a_model_that_sees_too_much_breaks_causality(model: functools.partial, cause: str) -> None:
    found = broken(subject(model()))
    assert cause in found[CAUSALITY], found
    assert " nats " in found[CAUSALITY]


class PeekingLoss(LanguageModel):
    """Has an honest distribution, and a loss that sees the target."""

    def losses(self, ids_BT: Tensor, targets_BT: Tensor, starts_BT: Tensor) -> Tensor:
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT)) + 0.3 * self.embedding(targets_BT)
        return self.nats(h_BTD.flatten(0, 1), targets_BT.flatten()).unflatten(0, ids_BT.shape)


class PeekingWhereItCounts(LanguageModel):
    """Has an honest distribution and honest losses, but for those that go into a session."""

    def losses_at(self, ids_BT: Tensor, targets_M: Tensor, starts_BT: Tensor, places_M: Tensor) -> Tensor:
        h_ND = self.hidden(ids_BT, Stream.of(starts_BT)).flatten(0, 1)[places_M]
        return self.nats(h_ND + 0.3 * self.embedding(targets_M), targets_M)


@pytest.mark.parametrize("kind", [PeekingLoss, PeekingWhereItCounts])
def test_a_loss_that_is_not_the_distribution_s_breaks_normalization(kind: type[LanguageModel]) -> None:
    assert "not the model's own" in broken(subject(weighted(kind(SPEC))))[NORMALIZATION]


def test_windows_that_depend_on_the_end_of_the_text_break_causality() -> None:
    class FullWindows:
        """The last window is moved back to be full: its targets have more context than a decoder has."""

        name = "full windows"

        def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
            for window in Chunked(32).windows(starts, targets):
                yield Window(max(0, window.stop - 32), window.stop, window.scored)

    assert "begins at" in broken(subject(plan=FullWindows()))[CAUSALITY]


# Distributions that are none


class Unnormalized(LanguageModel):
    """Probabilities that sum to 277."""

    def distribution(self, h: Tensor) -> Tensor:
        return super().distribution(h) + float(np.log(277.0))

    def nats(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        return super().nats(h_ND, targets_N) - float(np.log(277.0))


class CappedLast(LanguageModel):
    """Caps log-probabilities instead of logits, and does not normalize again: no −ln p is above 5."""

    def distribution(self, h: Tensor) -> Tensor:
        return 5.0 * torch.tanh(super().distribution(h) / 5.0)

    def nats(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        return -self.distribution(h_ND).gather(1, targets_N[:, None])[:, 0]


@pytest.mark.parametrize("kind", [Unnormalized, CappedLast])
def test_probabilities_that_do_not_sum_to_one_break_normalization(kind: type[LanguageModel]) -> None:
    assert "do not sum to 1" in broken(subject(weighted(kind(SPEC))))[NORMALIZATION]


def best_of_two(model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch) -> None:
    """Keeps the better of the scores of two models for every token."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embedding.weight.mul_(0.9)
    ids = np.append(session.inputs(np.arange(session.targets))[0], BYTE_TOKENS.bos)
    sessions = [Session(BYTE_TOKENS, ids, session.starts, Track.fixed()) for _ in range(2)]
    listed = list(windows)
    ledgers = []
    for one, scored in zip((model, other), sessions, strict=True):
        score_windows(one, scored, iter(listed))
        ledgers.append(scored.close().nats)
    session.record(np.arange(session.targets), np.minimum(*ledgers))


def test_the_best_of_two_scores_breaks_normalization() -> None:
    found = broken(subject(scorer=best_of_two))
    assert "not the model's own" in found[NORMALIZATION], found


def test_the_whole_alphabet_catches_scores_that_no_distribution_was_seen_of() -> None:
    """On the adaptive track nobody knows what the distribution was; the scores still give it away."""

    def discount(model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch) -> None:
        class Cheaper(Session):
            def record(self, index: np.ndarray, nats: np.ndarray, ids: np.ndarray | None = None) -> None:
                session.record(index, 0.9 * nats, ids)

        ids = np.append(session.inputs(np.arange(session.targets))[0], BYTE_TOKENS.bos)
        score_windows(model, Cheaper(BYTE_TOKENS, ids, session.starts, Track.fixed()), windows)

    found = broken(subject(scorer=discount, track=Track.adaptive(), chunk=10_000))
    assert "every id in a target's place" in found[NORMALIZATION], found


# Ledgers that do not add up


def test_scoring_twice_breaks_each_byte_once() -> None:
    def twice(model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch) -> None:
        listed = list(windows)
        score_windows(model, session, iter(listed))
        score_windows(model, session, iter(listed[:1]))

    found = broken(subject(scorer=twice))
    assert "Target 0 is scored 2 times" in found[BYTES]
    assert "a second time" in found[ORDER]


def test_a_space_that_counts_twice_breaks_each_byte_once() -> None:
    def doubled(tokenizer: Tokenizer, ids: np.ndarray, previous: int | None) -> np.ndarray:
        return byte_counts(tokenizer, ids, previous) + (np.asarray(ids) == ord(" "))

    found = broken(subject(counts=doubled))
    assert found == {BYTES: found[BYTES]}
    assert "but the ledger counts" in found[BYTES]


def test_a_tail_that_fills_no_window_breaks_each_byte_once() -> None:
    class WholeWindows:
        name = "whole windows"

        def windows(self, starts: np.ndarray, targets: int) -> Iterator[Window]:
            return (w for w in Chunked(32).windows(starts, targets) if w.stop - w.start == 32)

    found = broken(subject(plan=WholeWindows()))
    assert found == {BYTES: found[BYTES]}
    assert "have no score" in found[BYTES]


# Learning first


def step(model: LanguageModel, ids: np.ndarray, targets: np.ndarray, starts: np.ndarray) -> None:
    """One step of gradient descent, on rows of 16 tokens or less; a rest is left out."""
    width = min(16, len(ids))
    rows = (array[: len(ids) // width * width].reshape(-1, width) for array in (ids, targets, starts))
    with torch.enable_grad():
        loss = model.losses(*map(torch.from_numpy, rows)).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient


def test_learning_before_the_score_breaks_order() -> None:
    def eager(model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch) -> None:
        own = copy.deepcopy(model)
        for window in windows:
            step(own, *session.release(window.scored, window.stop))
            score_windows(own, session, iter([window]))

    found = broken(subject(scorer=eager, track=Track.adaptive(), chunk=64))
    assert "learning from target 0 before its score" in found[ORDER]


def learn_from_all(
    model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch
) -> None:
    """Goes around the session: takes the text as inputs, and learns from it."""
    index = np.arange(session.targets)
    ids, starts = session.inputs(index)
    step(model, ids, session.wanted(index), starts)
    score_windows(model, session, windows)


def test_learning_around_the_session_breaks_order() -> None:
    assert "changed the artifact's own parameters" in broken(subject(scorer=learn_from_all))[ORDER]


@pytest.mark.parametrize(("track", "chunk"), [(Track.fixed(), 0), (Track.adaptive(), 512)])
def test_learning_around_the_session_with_a_copy_breaks_causality(track: Track, chunk: int) -> None:
    def hidden(model: LanguageModel, session: Session, windows: Iterator[Window], *, watch: Watch) -> None:
        learn_from_all(copy.deepcopy(model), session, windows, watch=watch)

    found = broken(subject(scorer=hidden, track=track, chunk=chunk))
    assert ORDER not in found
    assert "The score of target" in found[CAUSALITY]


def test_learning_when_nothing_may_be_learned_breaks_order() -> None:
    adaptation = ScoreFirstSgd(chunk=64, length=16, rows=2, epochs=1)
    scorer = functools.partial(score_session, adaptation=adaptation)
    assert "fixed track" in broken(subject(scorer=scorer))[ORDER]


# Validation text in training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prepared") / "data"
    training = [Document(prose(seed), f"training {seed}") for seed in range(8)]
    held_out = [Document(prose(100), "held out")]
    prepare(place, training=training, validation=held_out, tokenizer=BYTE_TOKENS, source={})
    return place


def prose(seed: int, words: int = 1500) -> str:
    generator = np.random.default_rng(seed)
    return " ".join("".join(map(chr, generator.integers(97, 123, 5))) for _ in range(words))


def test_text_that_was_never_trained_on_is_clean(folder: Path) -> None:
    verdict = split(check_split(folder, [Document(prose(100), "held out")]), "")
    assert (verdict.condition, verdict.outcome) == (SPLIT, "pass")
    assert verdict.numbers["ngrams_looked_up"] > 5


def test_a_document_that_was_trained_on_breaks_the_split(folder: Path) -> None:
    documents = [Document(prose(100), "held out"), Document(prose(3), "memorized")]
    verdict = split(check_split(folder, documents), "")
    assert (verdict.condition, verdict.outcome) == (SPLIT, "fail")
    assert "'memorized'" in verdict.sentence


def test_a_document_with_a_few_words_changed_breaks_the_split_too(folder: Path) -> None:
    words = prose(3).split(" ")
    for place in range(0, len(words), 97):
        words[place] = "changed"
    verdict = split(check_split(folder, [Document(" ".join(words), "retouched")]), "")
    assert (verdict.condition, verdict.outcome) == (SPLIT, "fail")
    assert "near copies" in verdict.sentence
    assert "'retouched'" in verdict.sentence


def test_what_cannot_be_looked_up_is_not_passed(folder: Path, tmp_path: Path) -> None:
    assert split(check_split(tmp_path, [Document("a", "b")]), "no manifest").outcome == "not checked"
    short = split(check_split(folder, [Document("five words are too few", "short")]), "")
    assert short.outcome == "not checked"
    assert json.dumps(short.numbers)
