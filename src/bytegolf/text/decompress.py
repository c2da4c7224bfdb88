"""Files as streams of bytes, decompressed by their suffix: .gz, .xz and .zst."""

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bytegolf.errors import TextError

COMPRESSED = (".gz", ".xz", ".zst")


def content_suffix(path: Path) -> str:
    """The suffix that says what is inside, in lower case: ".jsonl" for both a.jsonl and a.jsonl.xz."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


@contextlib.contextmanager
def open_decompressed(path: Path) -> Generator[BinaryIO]:
    """The bytes of a file, decompressed. Whatever goes wrong while reading is a `TextError` naming it."""
    damage: tuple[type[Exception], ...] = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)
    try:
        with contextlib.ExitStack() as stack:
            match path.suffix.lower():
                case ".gz":
                    stream = stack.enter_context(gzip.open(path, "rb"))
                case ".xz":
                    stream = stack.enter_context(lzma.open(path, "rb"))
                case ".zst":
                    zstandard = _import_zstandard(path)
                    damage = (*damage, zstandard.ZstdError)
                    file = stack.enter_context(path.open("rb"))
                    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                    stream = stack.enter_context(reader)
                case _:
                    stream = stack.enter_context(path.open("rb"))
            yield cast(BinaryIO, stream)
    except damage as error:
        raise TextError(f"{path} cannot be decompressed ({error}); it is damaged or cut short") from error
    except OSError as error:
        raise TextError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _import_zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise TextError(f"reading {path} needs a package: pip install 'bytegolf[data]'") from error
    return zstandard
