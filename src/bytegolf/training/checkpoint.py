"""Checkpoints: everything an unbroken run would know, saved whole or not at all."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from bytegolf.errors import CheckpointError
from bytegolf.files import atomic_write

_KEPT = 2


class Checkpoints:
    """The checkpoints of one run folder, newest last; the one before the newest is kept as a reserve."""

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
        atomic_write(path, buffer.getvalue())
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
                return torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
                problems.append(f"{path.name}: {str(error).splitlines()[0]}")
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be read ({'; '.join(problems)}); start again in a new folder"
        )
