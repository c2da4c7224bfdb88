"""What tests of several folders share."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.serving.artifact import Artifact
from bytegolf.tokens.tokenizer import ByteTokenizer

# Workers whose threads together outnumber the cores wait for one another: 20 times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of benchmarks/ by name; `toy_recipes` of the contract tests is within reach too."""
    folder = Path(__file__).parent
    monkeypatch.syspath_prepend(str(folder.parent / "benchmarks"))
    monkeypatch.syspath_prepend(str(folder / "contract"))
    return importlib.import_module


@pytest.fixture
def toy_artifact() -> Artifact:
    """An untrained network of one layer over bytes, for what scores an artifact."""
    torch.manual_seed(0)
    block = Block(Attention(2, 1), SquaredMlp(16))
    vocabulary = ByteTokenizer().vocabulary
    spec = Model(width=16, layers=(block,), embedding=TiedEmbedding(0.3), vocabulary=vocabulary)
    return Artifact(spec.build(), ByteTokenizer(), {"name": "toy"}, {}, context=32, digest=bytes(32))
