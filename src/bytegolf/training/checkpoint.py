"""Checkpoints: everything an unbroken run would know, saved whole or not at all."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from bytegolf.errors import CheckpointError
from bytegolf.files import atomic_writer

_KEPT = 2
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one run folder, newest last; the one before the newest is kept as a reserve.

    A file is what `torch.save` writes, and its SHA-256: torch alone does not notice a changed weight.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes the state of `step`; older checkpoints but one are then removed."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self.folder / f"step-{step:09d}.pt"
        with atomic_writer(path) as file:
            file.write(buffer.getbuffer())
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
        for old in self.paths()[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any]:
        """The newest checkpoint that can be read, tensors on the CPU. Raises `CheckpointError` if none can.

        Only tensors and plain values are accepted, so a checkpoint cannot run code.
        """
        paths = self.paths()
        if not paths:
            raise CheckpointError(f"{self.folder} holds no checkpoint; train without --resume first")
        problems = []
        for path in reversed(paths):
            try:
                return _read(path)
            except (RuntimeError, OSError, pickle.UnpicklingError) as error:
                problems.append(f"{path.name}: {str(error).partition(chr(10))[0]}")
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be read ({'; '.join(problems)}); start again in a new folder"
        )


def _read(path: Path) -> dict[str, Any]:
    data = memoryview(path.read_bytes())
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != bytes(digest):
        raise OSError("it is cut short or damaged")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
