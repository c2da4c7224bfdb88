"""Tokenizers of text with marked capitals: counts of the text as it was, and the challenge's own model."""

import functools
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import TokenizerError
from bytegolf.text.casing import ESC, MARKERS, TITLE, CapsStream, lossless_caps
from bytegolf.text.documents import Document
from bytegolf.text.readers import read_documents
from bytegolf.tokens.ledger import byte_counts
from bytegolf.tokens.raw_bytes import ByteTokenizer
from bytegolf.tokens.shards import open_prepared, prepare
from bytegolf.tokens.table import compress_table, decompress_table, pack_table, unpack_table
from bytegolf.tokens.tokenizer import (
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
    train_sentencepiece,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
CASEOPS = SHARED / "tokenizers" / "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model"
SAMPLE = "The NASA Launch, seen by the OpenAI Crew; an iPhone at Café Ünal \u2581 the end of THE End.\n"
texts = st.text(
    st.one_of(
        st.sampled_from(list(f"The NASA end é\n\u2581ﬁ4{MARKERS}")), st.characters(exclude_categories=["Cs"])
    )
)


@functools.cache
def cased() -> SentencePieceTokenizer:
    return train_sentencepiece([Document(SAMPLE * 9, "a")], 320, casing=True)


@functools.cache
def cased_before_space() -> SentencePieceTokenizer:
    return train_sentencepiece([Document(SAMPLE * 9, "a")], 320, casing="before_space")


@functools.cache
def lossy() -> SentencePieceTokenizer:
    """As the challenge trains its model: on marked text, with its normalization."""
    return load_model_with(normalization_rule_name="nmt_nfkc")


@functools.cache
def exact_elsewhere() -> SentencePieceTokenizer:
    return load_model_with(normalization_rule_name="identity", remove_extra_whitespaces=False)


def load_model_with(**options) -> SentencePieceTokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.model"
        path.write_bytes(model_bytes(**options))
        tokenizer = load_tokenizer(str(path))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


def model_bytes(**options) -> bytes:
    model = io.BytesIO()
    settings = {"user_defined_symbols": list(MARKERS), **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.repeat(lossless_caps(SAMPLE), 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        minloglevel=3,
        **settings,
    )
    return model.getvalue()


def test_words_are_the_same_pieces_whatever_their_case():
    small = cased().encode("(launch").tolist()
    for text in ("(Launch", "(LAUNCH"):
        ids = cased().encode(text).tolist()
        assert [token for token in ids if token not in cased().markers] == small
        assert len(ids) == len(small) + 1


def test_before_a_space_the_marker_leaves_the_space_to_its_word():
    tokenizer = cased_before_space()
    (word,) = tokenizer.encode(" the").tolist()
    title, capitals, *_ = tokenizer.markers
    assert tokenizer.encode("the The THE").tolist() == [
        *tokenizer.encode("the").tolist(),
        *(title, word),
        *(capitals, word),
    ]
    assert cased().encode(" The").tolist() == [*cased().encode(" "), title, *cased().encode("the")]


@pytest.mark.parametrize("make", [cased, cased_before_space, exact_elsewhere, lossy])
def test_the_marked_text_is_what_is_cut_into_pieces(make):
    tokenizer, text = make(), "The NASA Launch, seen by OpenAI"
    pieces = [
        tokenizer.pieces.names[token].encode() if token in tokenizer.markers else tokenizer.token_bytes[token]
        for token in tokenizer.encode(text)
    ]
    assert b"".join(pieces) == lossless_caps(text, tokenizer.pieces.casing).encode()
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode()


@pytest.mark.parametrize("make", [cased, cased_before_space, exact_elsewhere])
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.one_of(texts.map(str.encode), st.binary(max_size=4)), max_size=6))
def test_any_bytes_come_back_and_are_counted(make, parts):
    data = b"".join(parts)
    ids = make().encode(data)
    assert make().lossless
    assert make().decode(ids) == data
    assert byte_counts(make(), ids, None).sum() == len(data)


@pytest.mark.parametrize("make", [cased, cased_before_space])
@settings(max_examples=100, deadline=None)
@given(documents=st.lists(texts, min_size=1, max_size=5))
def test_each_document_of_a_stream_has_its_own_bytes(make, documents):
    tokenizer = make()
    parts = [np.append(tokenizer.bos, tokenizer.encode(text)) for text in documents]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    counts = byte_counts(tokenizer, np.concatenate(parts), None)
    assert np.add.reduceat(counts, starts).tolist() == [len(text.encode()) for text in documents]
    assert tokenizer.decode(np.concatenate(parts)) == "".join(documents).encode()


@pytest.mark.parametrize("make", [ByteTokenizer, cased, cased_before_space, exact_elsewhere, lossy])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_decode_one_by_one_into_as_many_bytes_as_they_count(make, data):
    tokenizer: Tokenizer = make()
    often = [tokenizer.bos, *tokenizer.markers, *tokenizer.encode(" "), *tokenizer.encode("the")]
    ids = data.draw(st.lists(st.one_of(st.sampled_from(often), st.integers(0, tokenizer.vocabulary - 1))))
    decode = tokenizer.decoder()
    pieces = [decode(token) for token in ids]
    assert list(map(len, pieces)) == [len(tokenizer.token_bytes[token]) for token in ids]
    assert b"".join(pieces) == tokenizer.decode(np.array(ids, dtype=np.int64))
    if tokenizer.lossless:
        counts = byte_counts(tokenizer, np.array(ids, dtype=np.int64), None)
        assert list(map(len, pieces)) == counts.tolist()


@pytest.mark.parametrize("make", [cased, cased_before_space, lossy])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_count_does_not_depend_on_later_tokens(make, data):
    tokenizer = make()
    some_ids = st.lists(st.integers(0, tokenizer.vocabulary - 1))
    before, after, other = (np.array(data.draw(some_ids), dtype=np.int64) for _ in range(3))
    counts = [byte_counts(tokenizer, np.append(before, later), tokenizer.bos) for later in (after, other)]
    np.testing.assert_array_equal(counts[0][: len(before)], counts[1][: len(before)])


@pytest.mark.parametrize("make", [cased, cased_before_space])
def test_markers_stand_for_no_bytes_and_esc_is_never_written(make):
    tokenizer = make()
    assert [tokenizer.pieces.names[marker] for marker in tokenizer.markers] == list(MARKERS)
    assert {tokenizer.token_bytes[marker] for marker in tokenizer.markers} == {b""}
    text = f"{TITLE}Up {ESC} Up{ESC}"
    ids = tokenizer.encode(text)
    assert tokenizer.markers[3] not in ids
    assert tokenizer.decode(ids).decode() == text


@pytest.mark.parametrize("make", [cased, cased_before_space])
@pytest.mark.parametrize("begun", ["", " "])
def test_a_document_ends_what_a_marker_began(make, begun):
    tokenizer = make()
    ids = [tokenizer.markers[1], *tokenizer.encode(begun), tokenizer.bos, *tokenizer.encode(" end")]
    assert tokenizer.decode(np.array(ids)).decode() == begun + " end"


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_a_restored_table_is_the_same_tokenizer(text):
    for make in (cased, cased_before_space, lossy):
        restored = _restored(make)
        assert (restored.kind, restored.digest, restored.markers) == (
            make().kind,
            make().digest,
            make().markers,
        )
        np.testing.assert_array_equal(restored.encode(text), make().encode(text))


@functools.cache
def _restored(make) -> Tokenizer:
    return tokenizer_from_bytes(make().to_bytes())


def test_a_table_without_the_word_casing_does_not_mark_capitals():
    """Tables of the challenge's model that were saved before casing was known keep their ids."""
    header, columns = unpack_table(decompress_table(lossy().to_bytes()))
    old = tokenizer_from_bytes(compress_table(pack_table({**header, "kind": "sentencepiece"}, columns)))
    assert (old.kind, old.markers) == ("sentencepiece", ())
    assert old.encode("NASA").tolist() != lossy().encode("NASA").tolist()


def test_each_form_is_a_kind_of_table_of_its_own():
    """So a program from before there were two forms says that it does not know the second."""
    plain = train_sentencepiece([Document(SAMPLE * 9, "a")], 300)
    kinds = [
        unpack_table(decompress_table(tokenizer.to_bytes()))[0]["kind"]
        for tokenizer in (plain, cased(), cased_before_space())
    ]
    assert kinds[:2] == ["sentencepiece", "sentencepiece with casing"]
    assert kinds[2] == "sentencepiece with casing before spaces"


@pytest.mark.parametrize("kind", ["sentencepiece with casing behind words", ["sentencepiece"], 1, None])
def test_a_table_of_unknown_kind_is_refused(kind):
    header, columns = unpack_table(decompress_table(cased().to_bytes()))
    with pytest.raises(TokenizerError, match=r"is of unknown kind .*; update bytegolf"):
        tokenizer_from_bytes(compress_table(pack_table({**header, "kind": kind}, columns)))


@pytest.mark.parametrize("kind", ["sentencepiece with casing", "sentencepiece with casing before spaces"])
def test_a_table_with_casing_but_without_its_markers_is_refused(kind):
    plain = train_sentencepiece([Document(SAMPLE * 9, "a")], 300)
    for tokenizer in (plain, cased()):
        header, columns = unpack_table(decompress_table(tokenizer.to_bytes()))
        if tokenizer is not plain:
            columns["types"] = columns["types"].replace(b"\4", b"\1", 1)
        with pytest.raises(TokenizerError, match="as one user-defined piece"):
            tokenizer_from_bytes(compress_table(pack_table({**header, "kind": kind}, columns)))


def test_a_model_with_a_part_of_the_markers_is_an_ordinary_one(tmp_path):
    path = tmp_path / "part.model"
    path.write_bytes(model_bytes(user_defined_symbols=list(MARKERS[:3])))
    assert load_tokenizer(str(path)).markers == ()


@pytest.mark.parametrize("make", [cased, cased_before_space])
def test_shards_count_the_text_as_it_was_and_give_it_back(make, tmp_path):
    documents = [Document(f"{SAMPLE} Number {n} FOR {TITLE} iOS", str(n)) for n in range(6)]
    prepared = prepare(
        tmp_path, training=documents[2:], validation=documents[:2], tokenizer=make(), source={}
    )
    whole = {document.text.encode() for document in documents[2:]}
    assert prepared.training.bytes == sum(map(len, whole))
    assert open_prepared(tmp_path).tokenizer.digest == make().digest
    ends = [*prepared.training.starts[1:].tolist(), prepared.training.tokens]
    read = {
        prepared.tokenizer.decode(prepared.training.read(start, end))
        for start, end in zip(prepared.training.starts.tolist(), ends, strict=True)
    }
    assert read == whole
    assert len(prepared.training_bytes(300)) == 300


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_a_lossy_model_counts_what_its_normalization_leaves(text):
    tokenizer = lossy()
    library = _library(lossy)
    marked = lossless_caps(text)
    ids = tokenizer.encode(text)
    assert not tokenizer.lossless
    assert ids.tolist() == library.encode(marked)
    if ESC not in marked:
        left = CapsStream().feed(library.normalize(marked).replace("\u2581", " "))
        assert byte_counts(tokenizer, ids, tokenizer.bos).sum() == len(left.encode())
        assert tokenizer.decode(ids).decode() == left


@functools.cache
def _library(make) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=make().pieces.model())


def test_the_challenges_model_counts_the_text_before_capitals_were_marked():
    if not CASEOPS.exists():
        pytest.skip(f"{CASEOPS} is not here")
    tokenizer = load_tokenizer(str(CASEOPS))
    library = sentencepiece.SentencePieceProcessor(model_file=str(CASEOPS))
    assert (tokenizer.vocabulary, tokenizer.lossless, tokenizer.markers) == (8192, False, (4, 5, 6, 7))
    assert tokenizer_from_bytes(tokenizer.to_bytes()).digest == tokenizer.digest
    source = SHARED / "data" / "fineweb" / "val_sample.jsonl.xz"
    exact = 0
    for document in list(read_documents([str(source)]))[:60]:
        marked = lossless_caps(document.text)
        ids = tokenizer.encode(document.text)
        counted = byte_counts(tokenizer, ids, tokenizer.bos).sum()
        assert ids.tolist() == library.encode(marked)
        left = library.normalize(marked).replace("\u2581", " ")
        assert counted == len(CapsStream().feed(left).encode())
        if left == marked:
            assert counted == len(document.text.encode())
            exact += 1
    assert exact > 5
