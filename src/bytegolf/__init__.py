"""Train a small language model under a budget of bytes and seconds, compress it, prove its score.

import bytegolf
artifact = bytegolf.load("runs/pocket/artifact.bg")
artifact.score("In the beginning").bits_per_byte
artifact.generate("And God said")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bytegolf.serving.artifact import Artifact

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "auto") -> Artifact:
    """Opens an artifact file for scoring and writing text.

    device: auto (a GPU where there is one), cpu or cuda. Raises `bytegolf.errors.ArtifactError` if the file
    is not a sound artifact, and `OSError` if it cannot be read.
    """
    # torch takes seconds to import; the command line's help must not wait for it.
    from bytegolf.serving.artifact import open_artifact

    return open_artifact(path, device=device)
