"""A folder to run the program in, with a recipe and a text."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds tiny.py, the test file's own recipe `TINY`, and text.txt."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.py").write_text(request.module.TINY)
    words = [f"{i * i % 97} is the square of {i} modulo ninety-seven.\n" for i in range(200)]
    (folder / "text.txt").write_text("".join(words))
    return folder
