"""The recipe's tokenizer specs."""

import pytest

from bytegolf import tree
from bytegolf.errors import RecipeError
from bytegolf.text.documents import Document
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile, build_tokenizer

DOCUMENTS = [Document("a few words of text, a few more words of text " * 5, "a")]


def test_each_spec_builds_its_tokenizer(tmp_path):
    trained = build_tokenizer(SentencePiece(vocabulary=275), DOCUMENTS)
    (tmp_path / "a.tokenizer").write_bytes(trained.to_bytes())
    loaded = build_tokenizer(TokenizerFile(str(tmp_path / "a.tokenizer")), [])
    cased = build_tokenizer(SentencePiece(vocabulary=275, casing=True), DOCUMENTS)
    other = build_tokenizer(SentencePiece(vocabulary=275, casing="before_space"), DOCUMENTS)
    assert (build_tokenizer(Bytes(), []).kind, trained.vocabulary) == ("bytes", 275)
    assert (cased.vocabulary, len(cased.markers), len(trained.markers)) == (275, 4, 0)
    assert (other.kind, other.markers) == ("sentencepiece with casing before spaces", cased.markers)
    assert loaded.digest == trained.digest


@pytest.mark.parametrize(
    "spec",
    [
        Bytes(),
        SentencePiece(512, casing=True),
        SentencePiece(512, casing="before_space"),
        TokenizerFile("x.model"),
        Text(("kjv",), cut_bytes=9),
    ],
)
def test_specs_survive_json(spec):
    assert tree.from_json(type(spec), tree.to_json(spec)) == spec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SentencePiece(vocabulary=271), "vocabulary is 271; choose 272 to 65536"),
        (lambda: SentencePiece(vocabulary=65537), "vocabulary is 65537"),
        (lambda: SentencePiece(sample_bytes=0), "sample_bytes is 0"),
        (lambda: SentencePiece(casing="before"), "casing is 'before'; choose False, True or 'before_space'"),
        (lambda: TokenizerFile(""), "path is empty"),
    ],
)
def test_specs_refuse_what_cannot_work(make, message):
    with pytest.raises(RecipeError, match=message):
        make()
