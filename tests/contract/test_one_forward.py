"""Scoring, decoding in any steps, and packing are one computation."""

import itertools

import pytest
import torch
from specs import SPECS, build, packed
from torch import Tensor

from bytegolf.model.decoding import Reader
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stream import Memory

LENGTH = 23
#: Rotary angles are float32 in every precision; apart from them everything is float64 here.
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def decode(
    model: LanguageModel, ids_BT: Tensor, starts_BT: Tensor, cuts: list[int], capacity: int | None = None
) -> Tensor:
    """Log-probabilities (B, T, V) of the ids fed through a memory in pieces that end at `cuts`."""
    memory = Memory(capacity)
    borders = [0, *cuts, ids_BT.shape[1]]
    pieces = [
        model.log_probabilities(ids_BT[:, first:last], starts_BT[:, first:last], memory)
        for first, last in itertools.pairwise(borders)
    ]
    return torch.cat(pieces, dim=1)


#: Single tokens into room are what a reader reads, below.
@EVERY_SPEC
@pytest.mark.parametrize(
    ("cuts", "capacity"),
    [
        (list(range(1, LENGTH)), None),
        ([1, 2, 9, 10, 17], None),
        ([1, 2, 9, 10, 17], LENGTH + 3),
        ([11], LENGTH + 3),
    ],
    ids=["tokens, growing", "uneven, growing", "uneven, room", "two, room"],
)
@torch.no_grad()
def test_decoding_equals_one_forward(spec: Model, cuts: list[int], capacity: int | None) -> None:
    model = build(spec)
    ids, starts = packed(3, LENGTH, seed=1)
    whole = model.log_probabilities(ids[:, :-1], starts)
    # Same positions, so same angles: only the order of sums may differ.
    torch.testing.assert_close(decode(model, ids[:, :-1], starts, cuts, capacity), whole, rtol=0, atol=1e-11)


@EVERY_SPEC
@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@torch.no_grad()
def test_a_reader_equals_one_forward_whatever_it_read_before(spec: Model, fixed: bool) -> None:
    model = build(spec)
    # Longer than any window and than the rows that a rotation was trained for.
    length = 14
    reader = Reader(model, 3, length, fixed=fixed)
    # The first text is what the second must not see.
    for seed, first in ((7, 4), (8, 9), (9, 1)):
        ids, starts = packed(3, length, seed=seed)
        whole = model.log_probabilities(ids[:, :-1], starts)
        read = [reader.begin(ids[:, :first], starts[:, :first])]
        read += [reader.step(ids[:, t], starts[:, t]).clone() for t in range(first, length)]
        assert reader.position == length
        torch.testing.assert_close(torch.stack(read, dim=1), whole[:, first - 1 :], rtol=0, atol=1e-11)


@EVERY_SPEC
@torch.no_grad()
def test_scores_are_the_log_probabilities_of_the_targets(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(2, LENGTH, seed=2)
    nats = model.losses(ids[:, :-1], ids[:, 1:], starts)
    logs = model.log_probabilities(ids[:, :-1], starts)
    torch.testing.assert_close(nats, -logs.gather(2, ids[:, 1:, None])[..., 0], rtol=0, atol=1e-11)
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(2, LENGTH, dtype=torch.float64))


@EVERY_SPEC
@torch.no_grad()
def test_a_document_alone_equals_the_document_packed_behind_another(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(2, LENGTH, seed=3, share=0.0)
    starts[:, 0] = True
    starts[0, 9] = starts[1, 14] = True
    together = model.losses(ids[:, :-1], ids[:, 1:], starts)
    for row, border in ((0, 9), (1, 14)):
        for span in (slice(0, border), slice(border, LENGTH)):
            one = slice(row, row + 1)
            alone = model.losses(ids[one, :-1][:, span], ids[one, 1:][:, span], starts[one, span])
            torch.testing.assert_close(alone, together[one, span], **TOLERANCE)


@EVERY_SPEC
@torch.no_grad()
def test_a_document_decoded_behind_another_equals_it_alone(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(1, LENGTH, seed=4, share=0.0)
    starts[:, 9] = True
    decoded = decode(model, ids[:, :-1], starts, [4, 5, 9, 12])
    alone = model.log_probabilities(ids[:, 9:-1], starts[:, 9:])
    torch.testing.assert_close(decoded[:, 9:], alone, **TOLERANCE)


@EVERY_SPEC
@torch.no_grad()
def test_rows_of_a_batch_are_independent(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(3, LENGTH, seed=5)
    together = model.log_probabilities(ids[:, :-1], starts)
    for row in range(3):
        alone = model.log_probabilities(ids[row : row + 1, :-1], starts[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-11)
