"""A session keeps the rules of scoring: order, once each, score before learning, no gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import LegalityError
from bytegolf.evaluation.bits import token_stream
from bytegolf.evaluation.legality import Session, Track
from bytegolf.tokens.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
IDS, STARTS = token_stream(TOKENIZER, ["abc", "defgh"])
TARGETS = len(IDS) - 1  # a b c bos d e f g h bos


def session(track: Track | None = None) -> Session:
    return Session(TOKENIZER, IDS, STARTS, track or Track.fixed())


def span(first: int, stop: int) -> np.ndarray:
    return np.arange(first, stop)


def test_a_ledger_holds_every_target_with_its_bytes_and_pass() -> None:
    ours = session()
    ours.record(span(0, 2), np.array([1.0, 2.0]))
    ours.record(np.array([*range(4, 10), 2, 3]), np.array([*[0.5] * 6, 3.0, 4.0]))
    ledger = ours.close()
    assert ledger.nats.tolist() == [1, 2, 3, 4, *[0.5] * 6]
    assert ledger.bytes.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 0]
    assert ledger.passes.tolist() == [0, 0, *[1] * 8]
    assert (ledger.tokens, ledger.total_bytes, ledger.total_nats) == (10, 8, 13.0)
    with pytest.raises(ValueError, match="read-only"):
        ledger.nats[0] = 0.0


def test_scoring_twice_is_refused() -> None:
    ours = session()
    ours.record(span(0, 3), np.ones(3))
    with pytest.raises(LegalityError, match="target 2 is scored a second time"):
        ours.record(span(2, 4), np.zeros(2))


def test_scoring_twice_in_one_pass_is_refused() -> None:
    with pytest.raises(LegalityError, match="a target is scored a second time"):
        session().record(np.array([0, 1, 1]), np.ones(3))


def test_skipping_inside_a_document_is_refused_and_between_documents_is_not() -> None:
    ours = session()
    with pytest.raises(LegalityError, match="target 2 is scored before target 1"):
        ours.record(span(2, 3), np.ones(1))
    ours.record(span(4, 6), np.ones(2))


def test_an_end_with_a_gap_is_refused() -> None:
    ours = session()
    ours.record(span(0, 4), np.ones(4))
    with pytest.raises(LegalityError, match="6 of 10 targets have no score, the first is 4"):
        ours.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_a_score_that_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(LegalityError, match="the score of target 1 is"):
        session().record(span(0, 2), np.array([1.0, value]))


def test_a_score_outside_the_text_is_refused() -> None:
    with pytest.raises(LegalityError, match="scores for targets 4 to 10 of a text of 10"):
        session().record(span(4, 11), np.ones(7))


def test_nothing_is_released_before_its_score() -> None:
    ours = session(Track.adaptive())
    ours.record(span(0, 2), np.ones(2))
    inputs, targets, is_start = ours.release(0, 2)
    assert bytes(targets.astype(np.uint8)) == b"ab"
    assert inputs.tolist() == [TOKENIZER.bos, ord("a")]
    assert is_start.tolist() == [True, False]
    with pytest.raises(LegalityError, match="learning from target 2 before its score"):
        ours.release(0, 3)


def test_a_fixed_track_never_learns() -> None:
    ours = session()
    ours.record(span(0, 2), np.ones(2))
    with pytest.raises(LegalityError, match="fixed track"):
        ours.release(0, 1)


def test_a_decoder_cannot_read_what_it_has_not_decoded() -> None:
    hidden = np.full_like(IDS, -1)
    hidden[STARTS] = TOKENIZER.bos
    ours = Session(TOKENIZER, hidden, STARTS, Track.fixed(), known=False)
    assert ours.inputs(np.array([0, 4]))[0].tolist() == [TOKENIZER.bos] * 2
    with pytest.raises(LegalityError, match="token 1 is read before it is decoded"):
        ours.inputs(np.array([0, 1]))
    with pytest.raises(LegalityError, match="token 1 is read"):
        ours.wanted(np.array([0]))
    ours.record(span(0, 1), np.ones(1), IDS[1:2])
    assert ours.inputs(np.array([1]))[0].tolist() == [ord("a")]
    with pytest.raises(LegalityError, match="token 2 is read"):
        ours.record(span(1, 2), np.ones(1))


def test_targets_that_are_no_part_of_the_text_need_no_score() -> None:
    counted = np.ones(TARGETS, dtype=bool)
    counted[3] = False
    ours = Session(TOKENIZER, IDS, STARTS, Track.fixed(), counted=counted)
    ours.record(np.array([*range(3), *range(4, 10)]), np.ones(9))
    ledger = ours.close()
    assert (ledger.tokens, ledger.total_nats) == (9, 9.0)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_cut_of_the_text_into_passes_gives_the_same_ledger(data: st.DataObject) -> None:
    nats = np.arange(TARGETS, dtype=np.float64)
    ours = session(Track.adaptive())
    place = 0
    while place < TARGETS:
        stop = data.draw(st.integers(place + 1, TARGETS))
        ours.record(span(place, stop), nats[place:stop])
        ours.release(place, stop)
        if stop < TARGETS:
            with pytest.raises(LegalityError):
                ours.release(place, stop + 1)
        place = stop
    assert ours.close().nats.tolist() == nats.tolist()
