"""A real, trained model of another make through all 22 tasks."""

from pathlib import Path

import pytest
import torch
from llama2c import Llama2cReader

from bytegolf.evaluation.core.bundle import open_bundle
from bytegolf.evaluation.core.judging import answers
from bytegolf.evaluation.core.prompts import drawn
from bytegolf.evaluation.core.record import Record, evaluate, settings_of
from bytegolf.evaluation.core.tasks import TASKS

SHARED = Path(__file__).resolve().parents[4] / "shared"
BUNDLE = SHARED / "data" / "core" / "core_eval_bundle.tar.xz"
CHECKPOINT, PIECES = SHARED / "reference" / "stories260K.bin", SHARED / "reference" / "tok512.bin"
pytestmark = pytest.mark.skipif(
    not (BUNDLE.exists() and CHECKPOINT.exists()), reason="needs the bundle of tasks and stories260K"
)


@pytest.fixture(scope="module")
def reader() -> Llama2cReader:
    return Llama2cReader(CHECKPOINT, PIECES)


def test_it_is_read_as_it_was_trained(reader: Llama2cReader) -> None:
    ids = [1]
    for _ in range(60):
        ids.append(int(reader.logits(torch.tensor([ids]))[0, -1].argmax()))
    told = b"".join(reader.pieces[number] for number in ids[1:]).decode()
    # What its own program tells at temperature 0.
    assert told.startswith(" Once upon a time, there was a little girl named Lily. She loved to play outside")


def test_all_tasks_end_to_end(reader: Llama2cReader, tmp_path: Path) -> None:
    bundle = open_bundle(BUNDLE)
    record = Record(tmp_path, settings_of(reader, bundle, TASKS, 4))
    result = evaluate(reader, bundle, TASKS, record, 4, lambda task, done, total: None)
    assert [row.items for row in result.tasks] == [4] * 22
    assert result.core is not None
    # A storyteller of 260,000 weights continues no list and answers no question.
    assert -0.4 < result.core < 0.4


def test_it_finds_how_stories_go_on(reader: Llama2cReader) -> None:
    """copa is about everyday causes, which is what the stories it has read are about."""
    bundle = open_bundle(BUNDLE)
    copa = next(task for task in TASKS if task.label == "copa")
    items = drawn(bundle.items(copa), None)
    right = [answer.correct for some in answers(reader, copa, items, range(len(items))) for answer in some]
    assert len(right) == 100
    assert sum(right) >= 50
