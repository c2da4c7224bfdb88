"""Files that are either whole or absent."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that appears under `path` only once it is complete.

    The bytes go to a temporary file in the same folder, are forced to disk, and take the final name in
    one step. On any error, a full disk included, the temporary file is removed and an older file under
    `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; an artifact or a shard is as readable as any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def atomic_write(path: Path, data: bytes) -> None:
    """Writes `data` under `path`, whole or not at all (see `atomic_writer`)."""
    with atomic_writer(path) as file:
        file.write(data)


def write_json(path: Path, data: Any) -> None:
    """Plain data as indented JSON, whole or not at all (see `atomic_writer`)."""
    atomic_write(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
