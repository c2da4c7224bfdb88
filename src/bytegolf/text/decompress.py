"""Files as streams of bytes, decompressed by their suffix: .gz, .xz and .zst."""

import contextlib
import gzip
import io
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
                    stream = stack.enter_context(io.BufferedReader(_ZstdStream(file, zstandard)))
                case _:
                    stream = stack.enter_context(path.open("rb"))
            yield cast(BinaryIO, stream)
    except damage as error:
        raise TextError(f"{path} cannot be decompressed ({error}); it is damaged or cut short") from error
    except OSError as error:
        raise TextError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


class _ZstdStream(io.RawIOBase):
    """Frames one behind another. The package's own reader takes a file that was cut short for a whole one."""

    def __init__(self, file: BinaryIO, zstandard: Any) -> None:
        self._file, self._zstandard = file, zstandard
        self._decoder: Any = None
        self._compressed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._compressed = self._compressed or self._file.read(1 << 16)
            if not self._compressed:
                if self._decoder is not None:
                    raise EOFError("the last frame has no end")
                return 0
            self._decoder = self._decoder or self._zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._decoder.decompress(self._compressed))
            self._compressed = self._decoder.unused_data
            if self._decoder.eof:
                self._decoder = None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _import_zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise TextError(f"reading {path} needs a package: pip install 'bytegolf[data]'") from error
    return zstandard
