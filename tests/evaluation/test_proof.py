"""The pieces of a proof: what may change with what, ledgers of lossy tokenizers, and verdicts on records."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.evaluation.proof.excerpts import excerpt, other_ids, unaffected
from bytegolf.evaluation.proof.ledger import each_byte_once
from bytegolf.evaluation.proof.records import budget, reproducibility, size
from bytegolf.evaluation.proof.subject import Passage, Subject
from bytegolf.evaluation.windows import Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.text.casing import MARKERS, Casing
from bytegolf.text.documents import Document
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from bytegolf.training.budget import Budget

TINY = Model(width=8, layers=(Block(Attention(2, 1), SquaredMlp(8)),), vocabulary=257)


def subject(tokenizer: Tokenizer | None = None) -> Subject:
    return Subject(LanguageModel(TINY), tokenizer or ByteTokenizer(), Sliding(8, 4))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), length=st.integers(1, 12))
def test_a_place_is_affected_by_changes_before_it_in_its_document(data: st.DataObject, length: int) -> None:
    changed = np.array([data.draw(st.lists(st.booleans(), min_size=length + 1, max_size=length + 1))])
    starts = np.array([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])
    found = unaffected(changed, starts)
    for place in range(length):
        first = max((i for i in range(place + 1) if starts[0, i]), default=0)
        assert found[0, place] == (not changed[0, first : place + 1].any())


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 256), min_size=1), seed=st.integers(0, 1000))
def test_other_ids_are_all_other_and_begin_no_document(ids: list[int], seed: int) -> None:
    tried = subject()
    array = np.array(ids)
    new = other_ids(array, tried, np.random.default_rng(seed))
    text = array != tried.tokenizer.bos
    assert (new[text] != array[text]).all()
    assert (new != tried.tokenizer.bos).all()
    assert ((new >= 0) & (new < 257)).all()


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.binary(max_size=30), min_size=1, max_size=5), tokens=st.integers(1, 80))
def test_an_excerpt_is_a_stream_of_the_text_s_own_parts(texts: list[bytes], tokens: int) -> None:
    if not any(texts):
        texts = [b"a"]
    tried = subject()
    part = excerpt(tried, Passage.of(tried.tokenizer, texts), tokens, np.random.default_rng(0))
    assert part.targets >= tokens
    assert (part.ids[part.starts] == tried.tokenizer.bos).all()
    assert part.ids[-1] == tried.tokenizer.bos
    for first, stop in zip(part.starts, [*part.starts[1:], part.targets], strict=True):
        piece = tried.tokenizer.decode(part.ids[first + 1 : stop])
        assert piece
        assert any(piece in text for text in texts)


@pytest.fixture(scope="module", params=["", MARKERS], ids=["plain", "casing"])
def lossy(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Tokenizer:
    """A small model with the settings of the 16 MB challenge's, for text with marked capitals or without."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["The first of many lines, with 42 numbers.", "Über die Brücke, weit!"] * 20),
        model_writer=model,
        vocab_size=330,
        hard_vocab_limit=False,
        minloglevel=3,
        model_type="bpe",
        add_dummy_prefix=False,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        user_defined_symbols=list(request.param),
    )
    path: Path = tmp_path_factory.mktemp("lossy") / "small.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(str(path))


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from(list("the First OF  \n\u3000½éx▁\ue001"))), min_size=1, max_size=3)
)
def test_a_lossy_tokenizer_s_bytes_are_never_passed(lossy: Tokenizer, texts: list[str]) -> None:
    # Of text such as "▁" this tokenizer keeps nothing, and nothing cannot be scored.
    encoded = [text.encode() for text in texts if len(lossy.encode(text))] or [b"the"]
    tried = subject(lossy)
    passage = Passage.of(lossy, encoded)
    verdict = each_byte_once(tried, encoded, passage, None)
    assert verdict.outcome == "not checked", verdict
    assert "changes its text" in verdict.sentence


@pytest.mark.parametrize("casing", [True, "before_space"])
def test_capitals_that_are_markers_are_no_change_of_the_text(casing: Casing) -> None:
    texts = [b"The NASA Launch", "iPhone \ue001End \u2581 É".encode(), b"\xff OpenAI"]
    tokenizer = train_sentencepiece([Document("The end of THE launch, " * 9, "a")], 280, casing=casing)
    verdict = each_byte_once(subject(tokenizer), texts, Passage.of(tokenizer, texts), None)
    assert verdict.outcome == "pass", verdict


def test_a_wrong_count_of_a_lossy_tokenizer_s_bytes_fails_all_the_same(lossy: Tokenizer) -> None:
    def doubled(tokenizer: Tokenizer, ids: np.ndarray, previous: int | None) -> np.ndarray:
        spaced = np.array([piece.startswith(b" ") for piece in tokenizer.token_bytes])
        return byte_counts(tokenizer, ids, previous) + spaced[ids]

    texts = [b"the first of many lines"]
    tried = Subject(LanguageModel(TINY), lossy, Sliding(8, 4), counts=doubled)
    assert each_byte_once(tried, texts, Passage.of(lossy, texts), None).outcome == "fail"


def test_the_limit_itself_is_allowed_and_one_byte_more_is_not() -> None:
    assert size(1000, 100, 50, 1000).outcome == "pass"
    assert size(1001, 100, 50, 1000).outcome == "fail"
    unlimited = size(1001, 100, 50, None)
    assert unlimited.outcome == "not checked"
    assert unlimited.numbers["challenge_bytes"] == 1001 - 100 + 50


@pytest.mark.parametrize(
    ("used", "outcome"),
    [
        ({"seconds": 60.0, "tokens": 900, "steps": 10}, "pass"),
        ({"seconds": 65.9, "tokens": 900, "steps": 10}, "pass"),
        ({"seconds": 67.0, "tokens": 900, "steps": 10}, "fail"),
        ({"seconds": 50.0, "tokens": 1112, "steps": 10}, "fail"),
        ({"seconds": None, "tokens": 900, "steps": 10}, "not checked"),
        ({"seconds": True, "tokens": 900, "steps": 10}, "not checked"),
        ({}, "not checked"),
    ],
)
def test_a_budget_may_be_missed_by_one_step(used: dict, outcome: str) -> None:
    verdict = budget(Budget(seconds=60.0, tokens=1000), {"the record": used})
    assert verdict.outcome == outcome, verdict


def test_the_worst_record_decides_about_the_budget() -> None:
    records = {"one": {"steps": 10}, "other": {"steps": 11}}
    verdict = budget(Budget(steps=10), records)
    assert verdict.outcome == "fail"
    assert "11 steps by other" in verdict.sentence


@pytest.mark.parametrize(
    ("claimed", "same_device", "outcome"),
    [
        (1.0, True, "pass"),
        (1.00009, True, "pass"),
        (1.0002, True, "fail"),
        (0.9998, True, "fail"),
        (1.0015, False, "pass"),
        (1.0025, False, "fail"),
        (None, True, "not checked"),
    ],
)
def test_a_claim_holds_within_its_tolerance(claimed: float | None, same_device: bool, outcome: str) -> None:
    assert reproducibility(1.0, claimed, "no claim.", same_device=same_device).outcome == outcome
