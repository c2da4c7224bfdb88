"""SentencePiece `.model` files made elsewhere: the challenge's lossy ones, and what must be refused."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import TokenizerError
from bytegolf.text.readers import read_documents
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.table import unpack_table
from bytegolf.tokens.tokenizer import SentencePieceTokenizer, load_tokenizer, tokenizer_from_bytes

SHARED = Path(__file__).resolve().parents[3] / "shared"
CHALLENGE = ["fineweb_1024_bpe.model", "fineweb_8192_bpe.model"]
SAMPLE = [
    "The first of many lines, with 42 numbers and ﬁne ligatures.",
    "Über die Brücke — ½ weit! Café.",
] * 20
CHALLENGE_SETTINGS = {
    "model_type": "bpe",
    "normalization_rule_name": "nmt_nfkc",
    "add_dummy_prefix": False,
    "byte_fallback": True,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
}
texts = st.text(
    st.one_of(
        st.sampled_from(list("the first of  \n\t\u2581ﬁ½\u3000\x00é42")),
        st.characters(exclude_categories=["Cs"]),
    )
)


def model_bytes(**changes) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=3,
        **(CHALLENGE_SETTINGS | changes),
    )
    return model.getvalue()


@functools.cache
def challenge_like() -> tuple[SentencePieceTokenizer, sentencepiece.SentencePieceProcessor]:
    """A small model with the challenge's settings, as this package and as its own library see it."""
    import tempfile

    model = model_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.model"
        path.write_bytes(model)
        tokenizer = load_tokenizer(str(path))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer, sentencepiece.SentencePieceProcessor(model_proto=model)


def challenge_counts(model: sentencepiece.SentencePieceProcessor, ids: list[int], previous: int) -> list[int]:
    """The challenge's rule, token by token."""
    counts = []
    for token in ids:
        piece = model.id_to_piece(token)
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            count = 0
        elif model.is_byte(token):
            count = 1
        else:
            bare = piece[1:] if piece.startswith("\u2581") else piece
            boundary = model.is_control(previous) or model.is_unknown(previous) or model.is_unused(previous)
            count = len(bare.encode()) + (piece != bare and not boundary)
        counts.append(count)
        previous = token
    return counts


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_a_lossy_model_encodes_and_counts_as_its_own_library_does(text):
    tokenizer, model = challenge_like()
    ids = tokenizer.encode(text)
    assert not tokenizer.lossless
    assert ids.tolist() == model.encode(text)
    assert byte_counts(tokenizer, ids, tokenizer.bos).tolist() == challenge_counts(model, ids.tolist(), 1)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 399), max_size=20), previous=st.integers(0, 399))
def test_counts_follow_the_rule_for_any_ids_in_any_context(ids, previous):
    tokenizer, model = challenge_like()
    tokens = np.array(ids, dtype=np.uint16)
    assert byte_counts(tokenizer, tokens, previous).tolist() == challenge_counts(model, ids, previous)


def test_counts_keep_the_shape_of_the_ids():
    tokenizer, _ = challenge_like()
    ids = np.arange(390, dtype=np.int64)
    whole = byte_counts(tokenizer, ids, None)
    np.testing.assert_array_equal(byte_counts(tokenizer, ids.reshape(3, 130), None), whole.reshape(3, 130))


@settings(max_examples=50, deadline=None)
@given(text=texts)
def test_a_lossy_model_restored_from_its_table_encodes_identically(text):
    tokenizer, _ = challenge_like()
    np.testing.assert_array_equal(_restored().encode(text), tokenizer.encode(text))


@functools.cache
def _restored():
    return tokenizer_from_bytes(challenge_like()[0].to_bytes())


def test_a_table_is_far_smaller_than_its_model():
    assert len(challenge_like()[0].to_bytes()) < 2000


def test_a_rule_that_the_installed_library_no_longer_has_is_refused():
    import dataclasses

    pieces = challenge_like()[0].pieces
    assert pieces.normalizer.library == sentencepiece.__version__
    other = dataclasses.replace(pieces.normalizer, sha256="0" * 64, library="0.1.99")
    with pytest.raises(
        TokenizerError, match=r"saved with sentencepiece '0\.1\.99'; .* another nmt_nfkc rule"
    ):
        SentencePieceTokenizer(dataclasses.replace(pieces, normalizer=other))
    older = dataclasses.replace(other, library="")
    with pytest.raises(TokenizerError, match="the version of the machine that saved it"):
        SentencePieceTokenizer(dataclasses.replace(pieces, normalizer=older))


def test_a_table_that_depends_on_no_version_names_none(tmp_path):
    path = tmp_path / "exact.model"
    path.write_bytes(model_bytes(normalization_rule_name="identity", remove_extra_whitespaces=False))
    table, _ = unpack_table(load_tokenizer(str(path)).table())
    assert "library" not in table["normalizer"]


def test_a_lossless_model_made_elsewhere_is_seen_as_such(tmp_path):
    path = tmp_path / "exact.model"
    path.write_bytes(model_bytes(normalization_rule_name="identity", remove_extra_whitespaces=False))
    tokenizer = load_tokenizer(str(path))
    data = "  a\n\u2581 Über\t".encode() + b"\xff"
    assert tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode(data)) == data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"byte_fallback": False}, "no byte pieces; train it with byte_fallback=True"),
        ({"model_type": "unigram", "vocab_size": 300}, "no BPE model"),
        ({"bos_id": -1}, "control piece <s>"),
        ({"treat_whitespace_as_suffix": True}, "no BPE model"),
    ],
)
def test_models_of_another_kind_are_refused_with_the_remedy(tmp_path, changes, message):
    (tmp_path / "other.model").write_bytes(
        model_bytes(**{k: v for k, v in changes.items() if k != "vocab_size"})
    )
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(str(tmp_path / "other.model"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_model_files_are_refused_or_harmless(tmp_path_factory, data):
    model = bytearray(_small_exact_model())
    for _ in range(data.draw(st.integers(0, 3))):
        model[data.draw(st.integers(0, len(model) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("models") / "damaged.model"
    path.write_bytes(bytes(model[: data.draw(st.integers(0, len(model)))]))
    try:
        tokenizer = load_tokenizer(str(path))
    except TokenizerError:
        return
    assert tokenizer.decode(tokenizer.encode("some text")) is not None


@functools.cache
def _small_exact_model() -> bytes:
    return model_bytes(normalization_rule_name="identity", remove_extra_whitespaces=False)


@pytest.mark.parametrize("name", CHALLENGE)
def test_the_challenges_models_encode_count_and_restore_exactly(name):
    path = SHARED / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    tokenizer = load_tokenizer(str(path))
    restored = tokenizer_from_bytes(tokenizer.to_bytes())
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    source = SHARED / "data" / "fineweb" / "val_sample.jsonl.xz"
    total = 0
    for document in list(read_documents([str(source)]))[:60]:
        ids = tokenizer.encode(document.text)
        counts = byte_counts(tokenizer, ids, tokenizer.bos)
        assert ids.tolist() == model.encode(document.text) == restored.encode(document.text).tolist()
        assert counts.tolist() == challenge_counts(model, ids.tolist(), tokenizer.bos)
        total += int(counts.sum()) - len(document.text.encode())
    assert (tokenizer.lossless, tokenizer.bos, restored.digest) == (False, 1, tokenizer.digest)
    # Only normalization and collapsed whitespace may change the count.
    assert abs(total) < 2000
