"""The bundle, as folder and archive, whole and damaged; and the real one where it is at hand."""

import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_core import ITEMS, write_bundle

from bytegolf.errors import TextError
from bytegolf.evaluation.core import bundle as module
from bytegolf.evaluation.core.bundle import Bundle, find_bundle, open_bundle
from bytegolf.evaluation.core.tasks import TASKS

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "core"
REAL = SHARED / "core_eval_bundle.tar.xz"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="needs the real bundle of tasks")


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, Path("eval_bundle") / file.relative_to(folder))
        # What a Mac adds.
        archive.writestr("__MACOSX/eval_bundle/._core.yaml", b"\0\1")
        archive.writestr("eval_bundle/eval_data/commonsense_reasoning/._copa.jsonl", b"\0\1")
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        archive.add(folder, "core")
    return path


@pytest.mark.parametrize("made", [lambda folder, path: folder, zipped, tarred], ids=["folder", "zip", "tar"])
def test_a_bundle_in_every_form(made: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    bundle = open_bundle(made(write_bundle(tmp_path / "bundle"), tmp_path / "archive"))
    for task in TASKS:
        assert bundle.items(task) == ITEMS[task.kind]
    assert bundle.titles == ("Oxygen", "Warsaw")
    (published,) = bundle.published
    assert (published.model, published.core, dict(published.centered)) == ("gpt2", 0.113891, {"copa": 0.2})


def test_the_digest_is_that_of_the_tasks_asked(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    before = open_bundle(folder)
    (folder / "eval_data" / TASKS[0].file).write_text('{"query": "Q", "choices": ["a"], "gold": 0}\n')
    after = open_bundle(folder)
    assert before.digest(TASKS) != after.digest(TASKS)
    assert before.digest(TASKS[1:3]) == after.digest(TASKS[1:3])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1 of eval_data/.* is no JSON"),
        ('{"query": "Q", "choices": ["a", "b"]}', "has no 'gold', which a multiple_choice task needs"),
        ('{"query": "Q", "choices": ["a", "b"], "gold": 2}', "says that option 2 of 2 is right"),
        ("[]", "has no 'query'"),
        ("", "is empty"),
    ],
)
def test_damaged_items_are_named(line: str, complaint: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "eval_data" / TASKS[0].file).write_text(f"{line}\n")
    with pytest.raises(TextError, match=complaint):
        open_bundle(folder).items(TASKS[0])


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"holds no core.yaml with its eval_data; get https"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_bytes(b"no archive")
    with pytest.raises(TextError, match="cannot be read"):
        open_bundle(tmp_path / "file")
    folder = write_bundle(tmp_path / "bundle")
    (folder / "eval_data" / TASKS[3].file).unlink()
    with pytest.raises(TextError, match=f"has no eval_data/{TASKS[3].file}"):
        open_bundle(folder).items(TASKS[3])


def test_where_a_bundle_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_USUAL", (tmp_path / "one", tmp_path / "two"))
    with pytest.raises(TextError, match=r"get https://\S+ and give --bundle FILE"):
        find_bundle()
    (tmp_path / "two").mkdir()
    assert find_bundle() == tmp_path / "two"
    with pytest.raises(TextError, match="there is no bundle elsewhere"):
        find_bundle("elsewhere")


@pytest.fixture(scope="module")
def real() -> Bundle:
    return open_bundle(REAL)


@needs_real
def test_the_tasks_are_those_of_core_yaml(tmp_path: Path) -> None:
    with tarfile.open(REAL) as archive:
        archive.extractall(tmp_path, filter="data")
    text = (tmp_path / "core" / "core.yaml").read_text(encoding="utf-8")
    settings = [dict(re.findall(r"(\w+): (.*)", entry)) for entry in text.split("-\n")[1:]]
    lines = (tmp_path / "core" / "eval_meta_data.csv").read_text(encoding="utf-8").splitlines()
    guessing = {line.split(",")[0]: float(line.split(",")[5]) / 100 for line in lines[1:]}
    assert len(settings) == len(TASKS) == 22
    for task, listed in zip(TASKS, settings, strict=True):
        assert task.label == listed["label"]
        assert task.file == listed["dataset_uri"]
        assert task.kind == listed["icl_task_type"]
        assert [task.shots] == [int(listed["num_fewshot"][1:-1])]
        assert task.delimiter == listed.get("continuation_delimiter", '" "')[1:-1].replace("\\n", "\n")
        assert task.baseline == pytest.approx(guessing[task.label])


@needs_real
def test_every_item_of_the_real_bundle_is_well_formed(real: Bundle) -> None:
    assert sum(len(real.items(task)) for task in TASKS) == 80995 + 10042  # hellaswag is asked twice
    assert len(real.titles) == 24
    assert [row.model for row in real.published] == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


@needs_real
def test_baselines_are_those_behind_the_published_tables(real: Bundle) -> None:
    with tarfile.open(REAL) as archive:
        opened = archive.extractfile("core/openai-community-gpt2.csv")
        assert opened is not None
        table = opened.read().decode().splitlines()[1:]
    accuracies = {cells[0].strip(): cells[1] for cells in (line.split(",") for line in table)}
    for task in TASKS:
        centered = task.centered(float(accuracies[task.label]))
        assert centered == pytest.approx(real.published[0].centered[task.label], abs=2e-6)
    mean = sum(real.published[0].centered.values()) / 22
    assert mean == pytest.approx(real.published[0].core, abs=1e-6)
