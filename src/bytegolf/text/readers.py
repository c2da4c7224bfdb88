"""Documents from files, folders, built-in corpora and the Hugging Face hub.

A plain-text file is one document, or is cut into several; each line of a .jsonl file and each row of a
.parquet file is one. All of them may be compressed as .gz, .xz or .zst. Text is taken exactly as it is:
line ends, byte-order marks and spaces stay.
"""

import glob
import importlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bytegolf.errors import TextError
from bytegolf.text.corpora import king_james_bible, python_library
from bytegolf.text.cutting import cut_text
from bytegolf.text.decompress import content_suffix, open_decompressed
from bytegolf.text.documents import Document

_HUB_PREFIX = "hf:"
# Like git: a file with a zero byte this early is no text.
_SNIFF_BYTES = 8000


def read_documents(sources: Sequence[str], *, field: str = "text", cut_bytes: int = 0) -> Iterator[Document]:
    """The documents of all sources in order, lazily.

    A source is a file, a folder (all its text files, recursively, hidden and binary ones left out), a
    pattern such as "books/*.txt", "kjv", "python", or "hf:name[:config[:split]]". `field` holds the text in
    .jsonl, .parquet and hub rows, and "id", where there is one, their name. `cut_bytes` > 0 cuts plain text
    into documents of at most about that many bytes, at paragraphs or lines; together they are the file.

    Empty documents are dropped; a repeated id gets a number. Raises `TextError` with file, line and remedy.
    """
    seen: dict[str, int] = {}
    for source in sources:
        for document in _read_source(source, field, cut_bytes):
            if not document.text:
                continue
            seen[document.id] = count = seen.get(document.id, 0) + 1
            yield document if count == 1 else Document(document.text, f"{document.id} ({count})")


def _read_source(source: str, field: str, cut_bytes: int) -> Iterator[Document]:
    if source == "kjv":
        yield from king_james_bible()
    elif source == "python":
        yield from python_library()
    elif source.startswith(_HUB_PREFIX):
        yield from _read_hub(source, field)
    else:
        for path, name, explicit in _files(source):
            yield from _read_file(path, name, field, cut_bytes, explicit)


def source_files(source: str) -> list[Path]:
    """The files that a source stands for; none for the built-in texts and for the Hub."""
    if source in ("kjv", "python") or source.startswith(_HUB_PREFIX):
        return []
    return [path for path, _, _ in _files(source)]


def _files(source: str) -> list[tuple[Path, str, bool]]:
    """(path, name for ids, whether the user named this very file)."""
    path = Path(source).expanduser()
    if path.is_file():
        return [(path, path.name, True)]
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        names = [(file, file.relative_to(path)) for file in inside]
        found = [(f, n.as_posix(), False) for f, n in names if not any(p.startswith(".") for p in n.parts)]
        if not found:
            raise TextError(f"folder {source} holds no files; give a folder with text")
        return found
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(source) else []
    files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise TextError(
            f"text {source!r} does not exist; give a file, a folder, a pattern, 'kjv', 'python' or 'hf:name'"
        )
    return [(file, file.name, True) for file in files]


def _read_file(path: Path, name: str, field: str, cut_bytes: int, explicit: bool) -> Iterator[Document]:
    match content_suffix(path):
        case ".jsonl":
            yield from _read_jsonl(path, name, field)
        case ".parquet":
            yield from _read_parquet(path, name, field)
        case _:
            text = _read_text(path, explicit)
            if text and cut_bytes:
                pieces = cut_text(text, cut_bytes)
                yield from (Document(piece, f"{name}#{i}") for i, piece in enumerate(pieces, 1))
            elif text:
                yield Document(text, name)


def _read_text(path: Path, explicit: bool) -> str:
    with open_decompressed(path) as file:
        data = file.read(_SNIFF_BYTES)
        if b"\0" in data and not explicit:
            return ""
        data += file.read()
    return _decode(data, str(path))


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"{where} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}, line {line}; "
            "convert it, for example with iconv -t UTF-8"
        ) from error


def _read_jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    with open_decompressed(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            text = _decode(line, where)
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                raise TextError(
                    f"{where} is not JSON ({reason}); each line must be one JSON object"
                ) from error
            if not isinstance(row, dict):
                raise TextError(
                    f"{where} is not a JSON object; each line must be one, with a field {field!r}"
                )
            yield _document(row, field, f"{name}:{number}", where)


def _document(row: dict[str, Any], field: str, default_id: str, where: str) -> Document:
    if field not in row:
        raise TextError(f"{where} has no field {field!r}; it has: {', '.join(map(str, row)) or 'none'}")
    text = row[field]
    if not isinstance(text, str):
        raise TextError(
            f"{where}: field {field!r} is {str(text)[:40]!r}, which is no text; choose another field"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TextError(
            f"{where}: field {field!r} holds the lone surrogate U+{code:04X} at character {error.start}, "
            "which has no UTF-8; repair or remove this line"
        ) from error
    given = row.get("id")
    return Document(text, str(given) if isinstance(given, str | int) and given != "" else default_id)


def _read_parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TextError(f"reading {path} needs a package: pip install 'bytegolf[data]'") from error
    with open_decompressed(path) as stream:
        # The format is read from its end, which a decompressing stream cannot reach at once.
        source = stream if path.suffix.lower() == ".parquet" else io.BytesIO(stream.read())
        try:
            table = parquet.ParquetFile(source)
            columns = table.schema_arrow.names
            if field not in columns:
                raise TextError(f"{path} has no column {field!r}; it has: {', '.join(columns)}")
            wanted = [field, "id"] if "id" in columns and field != "id" else [field]
            number = 0
            for batch in table.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _document(row, field, f"{name}:{number}", f"{path}, row {number}")
        except pyarrow.ArrowException as error:
            reason = str(error).split("\n")[0]
            raise TextError(f"{path} is no readable parquet file ({reason})") from error


def _read_hub(source: str, field: str) -> Iterator[Document]:
    name, config, split = [*source.removeprefix(_HUB_PREFIX).split(":"), "", ""][:3]
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise TextError(f"the text {source!r} needs a package: pip install 'bytegolf[hub]'") from error
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for number, row in enumerate(rows, 1):
            yield _document(row, field, f"{name}:{number}", f"{source}, row {number}")
    except (OSError, ValueError) as error:
        if isinstance(error, TextError):
            raise
        reason = str(error).split("\n")[0]
        raise TextError(f"{source!r} cannot be read ({reason}); check name, config and split") from error
