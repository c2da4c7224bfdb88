"""Accuracy of copying: for models that copy by a rule, for one that cannot, and counted by hand."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.evaluation.copying import Induction, as_rows, copying, induction, ordinary_ids
from bytegolf.evaluation.windows import Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.text.documents import Document
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.tokens.training import train_sentencepiece

SPEC = Model(width=16, layers=(Block(Attention(2, 1), SquaredMlp(16)),), vocabulary=257)


class ManyPieces(ByteTokenizer):
    """More pieces than the rows have tokens."""

    vocabulary = 501
    bos = 500
    token_bytes = (*(f"<{number}>".encode() for number in range(500)), b"")

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.array([int(text[1:-1])])


class Copier(LanguageModel):
    """Expects what followed the last `order` tokens when they last stood in the document, `reach` at most.

    Elsewhere everything is as likely.
    """

    order, reach = 1, 10**6

    def hidden_at(self, ids_BT: Tensor, starts_BT: Tensor, places_M: Tensor) -> Tensor:
        logits_MV = torch.zeros(len(places_M), self.spec.vocabulary)
        for m, (row, place) in enumerate(divmod(int(p), ids_BT.shape[1]) for p in places_M):
            ids = ids_BT[row, : place + 1].tolist()
            begins = max([0, *torch.nonzero(starts_BT[row, : place + 1])[:, 0].tolist()])
            wanted = ids[place - self.order + 1 :]
            for back in range(1, min(self.reach, place - begins - self.order + 1) + 1):
                if ids[place - self.order + 1 - back : place + 1 - back] == wanted:
                    logits_MV[m, ids[place - back + 1]] = 40.0
                    break
        return logits_MV

    def distribution(self, h: Tensor) -> Tensor:
        return torch.log_softmax(h, dim=-1)


class PairCopier(Copier):
    order = 2


class ShortCopier(Copier):
    reach = 20


def copier(kind: type[Copier], vocabulary: int = ManyPieces.vocabulary) -> Copier:
    torch.manual_seed(0)
    return kind(dataclasses.replace(SPEC, vocabulary=vocabulary))


def test_a_copying_rule_is_always_right_and_at_first_as_good_as_chance() -> None:
    found = copying(copier(Copier), ManyPieces(), length=72, segment=8, rows=3)
    assert [repeat.distance for repeat in found] == [8, 16, 32, 64]
    for repeat in found:
        assert repeat.again.tokens == repeat.first.tokens == 3 * 7
        assert repeat.again.accuracy == 1.0
        assert repeat.again.nats == pytest.approx(0.0, abs=1e-6)
        assert repeat.first.accuracy == 0.0
        assert repeat.first.nats == pytest.approx(math.log(501), rel=1e-6)


def test_what_cannot_see_so_far_back_copies_near_ones_only() -> None:
    found = copying(copier(ShortCopier), ManyPieces(), length=72, segment=8, rows=3)
    assert [repeat.again.accuracy for repeat in found] == [1.0, 1.0, 0.0, 0.0]


def test_the_first_token_of_a_segment_does_not_count() -> None:
    # Nothing but the pair before tells what follows, and on the second token it is not yet the same pair.
    (repeat,) = copying(copier(PairCopier), ManyPieces(), length=16, segment=8, rows=2)
    assert repeat.again.accuracy == 6 / 7


def test_a_model_without_a_rule_is_no_better_the_second_time() -> None:
    model = copier(Copier, 257)
    with torch.no_grad():
        plain = LanguageModel(model.spec)
        for parameter in plain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = copying(plain, ByteTokenizer(), length=64, segment=8, rows=64)
    for repeat in found:
        assert repeat.again.accuracy is not None
        assert repeat.again.accuracy < 0.06
        assert repeat.again.nats == pytest.approx(repeat.first.nats, rel=0.05)
    assert copying(plain, ByteTokenizer(), length=64, segment=8, rows=64) == found
    other = copying(plain, ByteTokenizer(), length=64, segment=8, rows=64, seed=1)
    assert other[0].again.nats != found[0].again.nats
    json.dumps(as_rows(found), allow_nan=False)


@pytest.mark.parametrize(("segment", "length"), [(1, 64), (40, 64)])
def test_a_segment_that_does_not_fit_is_refused(segment: int, length: int) -> None:
    with pytest.raises(RecipeError, match="does not fit"):
        copying(copier(Copier), ManyPieces(), length=length, segment=segment)


def test_ordinary_ids_are_printable_and_written() -> None:
    assert ordinary_ids(ByteTokenizer()).tolist() == list(range(32, 127))
    text = "Words that come again and again, as words do; é too, and again é.\n" * 20
    tokenizer = train_sentencepiece([Document(text, "")], 290)
    pieces = [tokenizer.token_bytes[number] for number in ordinary_ids(tokenizer)]
    assert len(set(pieces)) == len(pieces)
    assert all(piece.decode().isprintable() for piece in pieces)
    assert {b"w", "é".encode(), b"again"} <= {piece.strip() for piece in pieces}
    assert b"\n" not in pieces


def documents(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three documents over five letters, as one stream."""
    draw = np.random.default_rng(seed)
    parts = [np.append(256, draw.integers(97, 102, size)) for size in (50, 3, 75)]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return np.append(np.concatenate(parts), 256), starts


def by_hand(ids: np.ndarray, starts: np.ndarray, length: int, count: int) -> dict[int, int]:
    """For each target whose pair stood in its document and window before: how far back, the latest first."""
    found = {}
    for window in Sliding(length, length // 2).windows(starts, count):
        for place in range(window.scored, window.stop):
            begins = max(window.start, *(start for start in starts if start <= place))
            for back in range(1, place - begins):
                if (ids[place - back - 1 : place - back + 1] == ids[place - 1 : place + 1]).all():
                    found[place] = back
                    break
    return found


def answered(found: Induction) -> list[tuple[int, int, int]]:
    return [(bucket.distance, bucket.answers.tokens, bucket.repeated.tokens) for bucket in found.buckets]


@pytest.mark.parametrize(("length", "targets"), [(24, 10**6), (200, 10**6), (30, 100)])
def test_pairs_are_those_counted_by_hand_and_a_copier_of_pairs_knows_them(length: int, targets: int) -> None:
    ids, starts = documents(1)
    count = min(targets, len(ids) - 1)
    backs = by_hand(ids, starts, length, count)
    assert len(backs) > 20
    found = induction(copier(PairCopier, 257), ids, starts, length=length, targets=targets)
    assert found.everything.tokens == count
    assert found.paired.tokens == len(backs)
    expected = []
    for power in range(max(backs.values()).bit_length()):
        inside = {place: back for place, back in backs.items() if 2**power <= back < 2 ** (power + 1)}
        again = sum(ids[place + 1] == ids[place - back + 1] for place, back in inside.items())
        expected.append((2**power, len(inside), again))
    assert answered(found) == expected
    for bucket in found.buckets:
        if bucket.repeated.tokens:
            assert bucket.repeated.accuracy == 1.0
        assert bucket.answers.accuracy == bucket.copied
    # Elsewhere the rule knows nothing, and id 0 is never right.
    assert found.everything.accuracy == pytest.approx(sum(n for _, _, n in expected) / count)
    json.dumps(as_rows(found), allow_nan=False)


def test_a_text_without_pairs_has_none() -> None:
    ids = np.array([256, *range(97, 107), 256])
    found = induction(copier(PairCopier, 257), ids, np.array([0]), length=8)
    assert found.paired.tokens == 0
    assert found.paired.accuracy is None
    assert found.buckets == ()


def test_passes_of_any_size_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import bytegolf.evaluation.copying as module

    ids, starts = documents(2)
    model = copier(PairCopier, 257)
    whole = induction(model, ids, starts, length=16)
    rows = copying(copier(Copier), ManyPieces(), length=16, segment=4, rows=5)
    for tokens, probabilities in itertools.product((16, 40), (300, 10**5)):
        monkeypatch.setattr(module, "_TOKENS_PER_PASS", {"cpu": tokens})
        monkeypatch.setattr(module, "_PROBABILITIES", probabilities)
        assert induction(model, ids, starts, length=16) == whole
        assert copying(copier(Copier), ManyPieces(), length=16, segment=4, rows=5) == rows
