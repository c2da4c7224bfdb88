"""Scores: sums equal a plain loop, bytes equal the text, documents do not see each other."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.errors import TextError
from bytegolf.evaluation.bits import Score, score, token_stream
from bytegolf.evaluation.windows import Chunked, PerDocument, Sliding, WindowPlan
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.rotary import NtkAware
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream
from bytegolf.tokens.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXTS = ["In the beginning", "é\u2581\0 \n", "", "the earth was without form, and void; and darkness"]


def network() -> LanguageModel:
    torch.manual_seed(0)
    spec = Model(
        width=8,
        layers=(Block(Attention(2, 1), SquaredMlp(8)),) * 2,
        embedding=TiedEmbedding(0.7),
        vocabulary=TOKENIZER.vocabulary,
    )
    model = spec.build().double()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


MODEL = network()


@torch.no_grad()
def one_by_one(plan: WindowPlan, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Nats of each target, from a forward pass of its own window alone."""
    nats = []
    for window in plan.windows(starts, len(ids) - 1):
        span = np.arange(window.start, window.stop)
        logs = MODEL.log_probabilities(
            torch.from_numpy(ids[span])[None], torch.from_numpy(np.isin(span, starts))[None]
        )[0]
        for i in range(window.scored, window.stop):
            nats.append(-float(logs[i - window.start, ids[i + 1]]))
    return np.array(nats)


plans = st.integers(1, 30).flatmap(
    lambda length: (
        st.just(Chunked(length))
        | st.builds(Sliding, st.just(length), st.integers(1, length))
        | st.builds(PerDocument, st.just(length), st.integers(1, length))
    )
)


@settings(max_examples=25, deadline=None)
@given(plan=plans, per_pass=st.integers(1, 200), texts=st.permutations(TEXTS))
def test_sums_equal_a_plain_loop_for_any_batching(plan: WindowPlan, per_pass: int, texts: list[str]) -> None:
    ids, starts = token_stream(TOKENIZER, texts)
    result = score(MODEL, TOKENIZER, ids, starts, plan, tokens_per_pass=per_pass)
    expected = one_by_one(plan, ids, starts)
    np.testing.assert_allclose(result.nats_N, expected, rtol=0, atol=1e-10)
    size = len("".join(texts).encode())
    assert result.bytes == size
    assert result.tokens == len(expected) == size + len(texts)
    np.testing.assert_allclose(result.bits_per_byte, expected.sum() / math.log(2) / size, rtol=1e-12)
    np.testing.assert_allclose(result.nats_per_token, expected.mean(), rtol=1e-12)
    assert result.plan == plan.name
    assert result.seconds > 0


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=5).filter(any))
def test_bytes_are_those_of_the_text(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for text in texts]
    ids, starts = token_stream(TOKENIZER, texts)
    result = score(MODEL, TOKENIZER, ids, starts, Chunked(64))
    assert result.bytes == sum(len(text.encode()) for text in texts)
    assert TOKENIZER.decode(ids) == "".join(texts).encode()
    assert ids[starts].tolist() == [TOKENIZER.bos] * len(texts)
    assert ids[-1] == TOKENIZER.bos
    assert len(ids) == result.tokens + 1


def test_a_document_scores_the_same_among_any_others() -> None:
    for plan in (PerDocument(12, 5), PerDocument(100, 100)):
        together = score(MODEL, TOKENIZER, *token_stream(TOKENIZER, TEXTS), plan)
        alone = [score(MODEL, TOKENIZER, *token_stream(TOKENIZER, [t]), plan) for t in TEXTS if t]
        # The empty document is a bos and the bos behind it.
        empty = len(TEXTS[0].encode()) + len(TEXTS[1].encode()) + 2
        nats = np.delete(together.nats_N, empty)
        np.testing.assert_allclose(nats, np.concatenate([s.nats_N for s in alone]), rtol=0, atol=1e-10)


def test_other_documents_in_a_sliding_window_are_not_seen() -> None:
    ids, starts = token_stream(TOKENIZER, TEXTS)
    before = score(MODEL, TOKENIZER, ids, starts, Sliding(25, 5)).nats_N
    changed = ids.copy()
    changed[3:10] = 65
    after = score(MODEL, TOKENIZER, changed, starts, Sliding(25, 5)).nats_N
    second = int(starts[1])
    assert np.array_equal(before[second:], after[second:])
    assert np.array_equal(before[:2], after[:2])
    assert not np.array_equal(before[2:second], after[2:second])


def test_more_context_never_comes_from_the_future() -> None:
    ids, starts = token_stream(TOKENIZER, TEXTS)
    whole = score(MODEL, TOKENIZER, ids, starts, Sliding(20, 4)).nats_N
    for cut in (5, 17, 40):
        part = score(MODEL, TOKENIZER, ids[: cut + 1], starts[starts <= cut], Sliding(20, 4)).nats_N
        # Windows end elsewhere in a shorter stream, so only those before its last one are alike.
        same = max(0, cut - 20)
        np.testing.assert_allclose(part[:same], whole[:same], rtol=0, atol=1e-9)


def test_progress_is_told_up_to_the_end() -> None:
    ids, starts = token_stream(TOKENIZER, TEXTS)
    told: list[tuple[int, int]] = []
    score(
        MODEL,
        TOKENIZER,
        ids,
        starts,
        Sliding(10, 3),
        tokens_per_pass=30,
        watch=lambda *done: told.append(done),
    )
    total = len(ids) - 1
    assert len(told) > 3
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (total, total)


def test_passes_stay_within_their_bound() -> None:
    sizes: list[int] = []
    heads: list[int] = []

    class Watched(LanguageModel):
        def hidden(self, ids_BT: Tensor, stream: Stream) -> Tensor:
            sizes.append(ids_BT.numel())
            return super().hidden(ids_BT, stream)

        def nats(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
            heads.append(len(h_ND))
            return super().nats(h_ND, targets_N)

    model = Watched(dataclasses.replace(MODEL.spec))
    ids, starts = token_stream(TOKENIZER, TEXTS)
    score(model, TOKENIZER, ids, starts, Sliding(12, 3), tokens_per_pass=50)
    assert max(sizes) <= 50
    assert max(sizes) > 25
    # The head works for what counts, not for all that the windows read again.
    assert sum(heads) == len(ids) - 1
    assert sum(sizes) > 3 * sum(heads)


def test_the_model_is_fitted_to_the_windows_and_then_to_training_again() -> None:
    rotary = NtkAware(train_length=8)
    layer = Block(Attention(2, 1, rotary_scaling=rotary), SquaredMlp(8))
    model = dataclasses.replace(MODEL.spec, layers=(layer,) * 2).build().double()
    model.load_state_dict(MODEL.state_dict())
    model.compute_dtype = torch.float64
    ids, starts = token_stream(TOKENIZER, TEXTS)
    for length, same in ((8, True), (24, False)):
        ours, plain = (score(m, TOKENIZER, ids, starts, Chunked(length)).nats_N for m in (model, MODEL))
        assert np.allclose(ours, plain, rtol=0, atol=1e-10) == same
    inputs = torch.from_numpy(ids[None, :40])
    flags = torch.from_numpy(np.isin(np.arange(40), starts)[None])
    torch.testing.assert_close(*(m.log_probabilities(inputs, flags) for m in (model, MODEL)))


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_score_is_refused(texts: list[str]) -> None:
    with pytest.raises(TextError, match="nothing to score"):
        token_stream(TOKENIZER, texts)


def test_raw_bytes_are_scored_too() -> None:
    raw = [b"\xff\xfe\x00", b"\xe2\x96"]
    ids, starts = token_stream(TOKENIZER, raw)
    result = score(MODEL, TOKENIZER, ids, starts, Chunked(8))
    assert result.bytes == 5


def test_a_score_without_bytes_has_no_bits_per_byte() -> None:
    empty = Score("plan", np.array([1.0]), np.array([0]), 1.0)
    assert math.isnan(empty.bits_per_byte)
