"""The codec: any bytes come back, the size is the session's ledger, and nothing wrong is ever returned."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bytegolf.errors import PackedError
from bytegolf.evaluation.adaptation import ScoreFirstSgd
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.codec import PackReport, pack, parallel_ledger, unpack
from bytegolf.evaluation.packed import packed_to_bytes, read_packed
from bytegolf.evaluation.symbols import DamagedBlock, Decoder, Encoder, frequencies
from bytegolf.evaluation.windows import Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.rotary import NtkAware
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.text.casing import Casing
from bytegolf.text.documents import Document
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer
from bytegolf.tokens.training import train_sentencepiece

DIGEST = hashlib.sha256(b"an artifact").digest()
TEXT = ("In the beginning God created the heaven and the earth. " * 40).encode()
PLAN = Sliding(16, 5)


def network(vocabulary: int) -> LanguageModel:
    torch.manual_seed(0)
    block = Block(Attention(2, 1), SquaredMlp(16))
    spec = Model(width=16, layers=(block,) * 2, embedding=TiedEmbedding(0.5), vocabulary=vocabulary)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


BYTES = ByteTokenizer()
MODEL = network(BYTES.vocabulary)


def round_trip(
    data: bytes,
    *,
    streams: int | None = 11,
    plan: Sliding = PLAN,
    model: LanguageModel = MODEL,
    tokenizer: Tokenizer = BYTES,
) -> PackReport:
    report = pack(model, tokenizer, data, DIGEST, plan, streams=streams)
    packed = read_packed(packed_to_bytes(report.packed))
    assert packed == report.packed
    assert unpack(model, tokenizer, packed, DIGEST) == data
    return report


@settings(max_examples=25, deadline=None)
@given(
    data=st.binary(max_size=120),
    streams=st.integers(1, 7),
    length=st.integers(1, 12),
    stride=st.integers(1, 12),
)
def test_any_bytes_come_back(data: bytes, streams: int, length: int, stride: int) -> None:
    round_trip(data, streams=streams, plan=Sliding(length, min(stride, length)))


@pytest.mark.parametrize("data", [b"", b"a", b"\xff\xfe\x00", "é\u2581\0 \n".encode(), bytes(range(256))])
def test_small_and_odd_texts_come_back(data: bytes) -> None:
    round_trip(data, streams=None)


@pytest.mark.parametrize("casing", [False, True, "before_space"])
def test_pieces_come_back_too(casing: Casing) -> None:
    documents = [Document(TEXT.decode(), "genesis")]
    tokenizer = train_sentencepiece(documents, 300, casing=casing)
    odd = TEXT + b"\xff\xc3 \xe2\x96\x81 eND \xee\x80\x81End"
    round_trip(odd, tokenizer=tokenizer, model=network(tokenizer.vocabulary))


def test_the_size_is_the_ledger_of_its_session() -> None:
    data = np.random.default_rng(0).integers(0, 256, 12_000, dtype=np.uint8).tobytes()
    report = round_trip(data, streams=100, plan=Sliding(32, 32))
    assert report.ledger.tokens == report.ledger.total_bytes == len(data)
    ledger_bytes = report.ledger.total_nats / np.log(2) / 8
    size = len(packed_to_bytes(report.packed))
    assert ledger_bytes <= size <= 1.005 * ledger_bytes + 64


def test_token_by_token_scores_are_those_of_whole_windows() -> None:
    report = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=11)
    parallel = parallel_ledger(MODEL, BYTES, report.ids, report.packed.layout)
    assert parallel.counted.tolist() == report.ledger.counted.tolist()
    counted = parallel.counted
    np.testing.assert_allclose(report.ledger.nats[counted], parallel.nats[counted], rtol=0, atol=2e-5)
    assert parallel.total_bytes == len(TEXT)


def test_more_streams_see_other_contexts() -> None:
    layouts = {n: pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=n).packed.layout for n in (12, 50)}
    few, many = (parallel_ledger(MODEL, BYTES, BYTES.encode(TEXT), layouts[n]) for n in (12, 50))
    assert few.tokens == many.tokens
    assert few.total_nats != many.total_nats


def test_a_model_that_is_fitted_to_its_windows_is_so_on_both_sides() -> None:
    layer = Block(Attention(2, 1, rotary_scaling=NtkAware(train_length=4)), SquaredMlp(16))
    model = replace(MODEL.spec, layers=(layer,) * 2).build()
    model.load_state_dict(MODEL.state_dict())
    report = round_trip(TEXT[:300], model=model)
    parallel = parallel_ledger(model, BYTES, report.ids, report.packed.layout)
    np.testing.assert_allclose(report.ledger.nats, parallel.nats, rtol=0, atol=1e-3)
    plain = parallel_ledger(MODEL, BYTES, report.ids, report.packed.layout)
    assert np.abs(plain.nats - parallel.nats).max() > 0.1


ADAPTATION = ScoreFirstSgd(chunk=200, length=16, rows=4, epochs=2, learning_rate=0.05)


def test_a_learning_model_is_followed_by_its_decoder() -> None:
    before = [parameter.clone() for parameter in MODEL.parameters()]
    report = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=11, adaptation=ADAPTATION)
    assert unpack(MODEL, BYTES, report.packed, DIGEST, adaptation=ADAPTATION) == TEXT
    assert all(torch.equal(a, b) for a, b in zip(before, MODEL.parameters(), strict=True))
    fixed = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=11)
    # Such a repetitive text is learned quickly.
    assert report.ledger.total_nats < 0.9 * fixed.ledger.total_nats
    parallel = parallel_ledger(MODEL, BYTES, report.ids, report.packed.layout, adaptation=ADAPTATION)
    counted = parallel.counted
    np.testing.assert_allclose(report.ledger.nats[counted], parallel.nats[counted], rtol=0, atol=1e-3)
    with pytest.raises(PackedError, match="names no adaptation"):
        unpack(MODEL, BYTES, report.packed, DIGEST)


def test_coding_and_scoring_learn_after_the_same_windows() -> None:
    # Neither the first window nor the stride divides the chunk.
    text, adaptation = TEXT[:500], replace(ADAPTATION, chunk=98)
    report = pack(MODEL, BYTES, text, DIGEST, PLAN, streams=1, adaptation=adaptation)
    scored = score(MODEL, BYTES, *token_stream(BYTES, [text]), PLAN, adaptation=adaptation)
    np.testing.assert_allclose(
        report.ledger.nats[report.ledger.counted], scored.nats_N[: len(text)], rtol=0, atol=1e-3
    )


def test_a_decoder_that_learns_otherwise_is_noticed() -> None:
    packed = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=11, adaptation=ADAPTATION).packed
    with pytest.raises(PackedError, match="do not come out as they went in"):
        unpack(MODEL, BYTES, packed, DIGEST, adaptation=replace(ADAPTATION, learning_rate=0.04))


@pytest.mark.parametrize(("streams", "length"), [(-1, 16), (0, 16), (1 << 19, 16), (1, 1 << 25)])
def test_what_its_own_reader_would_refuse_is_not_packed(streams: int, length: int) -> None:
    with pytest.raises(PackedError, match="cannot be packed"):
        pack(MODEL, BYTES, b"a" * (1 << 19), DIGEST, Sliding(length, 8), streams=streams)


def test_another_artifact_is_refused() -> None:
    packed = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=40).packed
    with pytest.raises(PackedError, match="not with this one"):
        unpack(MODEL, BYTES, packed, hashlib.sha256(b"another").digest())


def test_other_probabilities_are_noticed_before_anything_is_returned() -> None:
    packed = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=20).packed
    other = network(BYTES.vocabulary)
    with torch.no_grad():
        other.embedding.weight[5] *= 1.0 + 1e-4
    with pytest.raises(PackedError, match="do not come out as they went in"):
        unpack(other, BYTES, packed, DIGEST)


def test_words_that_name_no_token_are_damaged() -> None:
    counts_BKC = frequencies(torch.full((3, 257), -math.log(257)))
    for known, damaged in ([256, 0, 256], False), ([5, 257, 0], True), ([319, 319, 319], True):
        encoder = Encoder()
        encoder.code(counts_BKC, np.array(known))
        decoder = Decoder(encoder.finish(), 257)
        if damaged:
            with pytest.raises(DamagedBlock):
                decoder.code(counts_BKC, None)
        else:
            assert decoder.code(counts_BKC, None).tolist() == known


SHORT = packed_to_bytes(pack(MODEL, BYTES, TEXT[:200], DIGEST, PLAN, streams=8).packed)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@example(place=0.5703125, flip=248)
def test_a_flipped_byte_is_noticed(place: float, flip: int) -> None:
    data = bytearray(SHORT)
    data[int(place * len(data))] ^= flip
    with pytest.raises(PackedError):
        unpack(MODEL, BYTES, read_packed(bytes(data)), DIGEST)


@pytest.mark.parametrize("keep", [0, 3, 20, 40, -9, -1])
def test_a_file_cut_short_is_refused(keep: int) -> None:
    with pytest.raises(PackedError):
        read_packed(SHORT[:keep])
    with pytest.raises(PackedError, match="bytes follow the last block"):
        read_packed(SHORT + b"x")


def test_claims_beyond_the_file_are_refused() -> None:
    packed = pack(MODEL, BYTES, b"abc", DIGEST, PLAN).packed
    vast = replace(packed.layout, text_bytes=1 << 35, tokens=1 << 35, block_steps=1 << 17)
    with pytest.raises(PackedError, match="cannot hold"):
        read_packed(packed_to_bytes(replace(packed, layout=vast)))


def test_the_encoders_threads_and_precision_are_used_and_put_back() -> None:
    packed = pack(MODEL, BYTES, TEXT, DIGEST, PLAN, streams=40).packed
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    MODEL.compute_dtype = torch.bfloat16
    try:
        assert unpack(MODEL, BYTES, packed, DIGEST) == TEXT
        assert torch.get_num_threads() == threads + 1
        assert MODEL.compute_dtype == torch.bfloat16
    finally:
        torch.set_num_threads(threads)
        MODEL.compute_dtype = torch.float32
