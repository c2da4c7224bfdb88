"""The token before, while decoding: in any pieces, after any other text, at fixed addresses."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bytegolf.model.attention import Attention
from bytegolf.model.decoding import Reader
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory, Stream


def before(value_BTX: Tensor, starts_BT: Tensor) -> Tensor:
    expected = torch.zeros_like(value_BTX)
    for b, t in itertools.product(*map(range, starts_BT.shape)):
        if t and not starts_BT[b, t]:
            expected[b, t] = value_BTX[b, t - 1]
    return expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_token_before_is_found_in_any_pieces_after_any_text(data: st.DataObject) -> None:
    memory = Memory(data.draw(st.sampled_from([None, 12])))
    ids_too = data.draw(st.booleans())
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        length = data.draw(st.integers(1, 12))
        values = torch.randn(2, length, 3, generator=generator)
        ids = torch.randint(1, 9, (2, length), generator=generator)
        starts = torch.rand(2, length, generator=generator) < 0.3
        cuts = data.draw(st.sets(st.integers(1, 11).filter(lambda c, n=length: c < n)))
        memory.restart()
        pieces = []
        for first, last in itertools.pairwise([0, *sorted(cuts), length]):
            stream = Stream.of(starts[:, first:last], memory)
            if ids_too:
                assert torch.equal(
                    stream.earlier("ids", ids[:, first:last]), before(ids, starts)[:, first:last]
                )
            pieces.append(stream.earlier("values", values[:, first:last]))
        assert torch.equal(torch.cat(pieces, dim=1), before(values, starts))
        assert torch.equal(Stream.of(starts).earlier("values", values), before(values, starts))


def test_room_taken_once_keeps_its_address() -> None:
    memory = Memory(capacity=9)
    addresses = set()
    for _ in range(2):
        memory.restart()
        for length in (2, 1, 3):
            Stream.of(torch.zeros(1, length, dtype=torch.bool), memory).earlier(
                "a", torch.randn(1, length, 2)
            )
            addresses.add(memory.tensors["a"].data_ptr())
    assert len(addresses) == 1


def test_a_recorded_step_never_takes_itself_for_the_first() -> None:
    # A graph is recorded right after one token, and replayed wherever the text has got to.
    memory = Memory(capacity=4)
    value = torch.randn(2, 2, 3)
    starts = torch.zeros(2, 1, dtype=torch.bool)
    Stream.of(starts, memory).earlier("a", value[:, :1])
    memory.place_1 = torch.ones(1, dtype=torch.int64)
    assert memory.position == 1
    assert torch.equal(Stream.of_next(starts, memory).earlier("a", value[:, 1:]), value[:, :1])


@pytest.mark.parametrize("smear", [SmearMix(), SmearGate(channels=4)])
@torch.no_grad()
def test_steps_on_fixed_addresses_read_the_token_before(smear: SmearMix | SmearGate) -> None:
    torch.manual_seed(1)
    layers = (Block(Attention(heads=2, key_value_heads=1), SquaredMlp(8)),)
    model = Model(8, layers, TiedEmbedding(0.3), smear=smear, vocabulary=11).build()
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    ids, starts = torch.randint(0, 11, (2, 6)), torch.rand(2, 6) < 0.3
    whole = model.log_probabilities(ids, starts)
    reader = Reader(model, 2, 6, fixed=True)
    # Twice, so that the first text's last token would be seen if it stayed.
    for first in (3, 1):
        read = [reader.begin(ids[:, :first], starts[:, :first])]
        read += [reader.step(ids[:, t], starts[:, t]).clone() for t in range(first, 6)]
        torch.testing.assert_close(torch.stack(read, dim=1), whole[:, first - 1 :], rtol=0, atol=1e-5)
