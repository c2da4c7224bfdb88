"""The bundle of tasks as nanochat hands it out: a folder, or a .zip or .tar archive of one."""

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bytegolf.errors import TextError
from bytegolf.evaluation.core.tasks import TASKS, Kind, Task

#: Where nanochat's own bundle can be had, and where nanochat keeps it.
SOURCE = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
_USUAL = (Path("eval_bundle"), Path("eval_bundle.zip"), Path.home() / ".cache/nanochat/eval_bundle")
_CSV_SUFFIX, _TITLES, _META = ".csv", "squad_dev_titles_in_enwiki_2015.txt", "eval_meta_data.csv"

_WANTED = frozenset(task.file for task in TASKS)

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """CORE of a model as its bundle has it. centered: by label; 0 is guessing."""

    model: str
    centered: Mapping[str, float]
    core: float


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle that are used. path: where it lies. titles: see `contamination`."""

    path: Path
    files: Mapping[str, bytes]
    titles: tuple[str, ...]
    published: tuple[Published, ...]

    def items(self, task: Task) -> list[Item]:
        """The task's items in the order of its file. Raises `TextError` if they are not what it asks for."""
        data = self.files.get(task.file)
        if data is None:
            raise TextError(f"{self.path} has no eval_data/{task.file}; take the whole bundle ({SOURCE})")
        items = [
            _item(line, task, number) for number, line in enumerate(data.splitlines(), 1) if line.strip()
        ]
        if not items:
            raise TextError(f"eval_data/{task.file} of {self.path} is empty; take the bundle again")
        return items

    def digest(self, tasks: Sequence[Task]) -> str:
        """SHA-256 of these tasks' files: equal digests, equal questions."""
        made = hashlib.sha256()
        for task in tasks:
            made.update(hashlib.sha256(self.files.get(task.file, b"")).digest())
        return made.hexdigest()


def find_bundle(path: str = "") -> Path:
    """`path`, or the first of the usual places. Raises `TextError` if nothing is there."""
    if path:
        if not Path(path).exists():
            raise TextError(f"there is no bundle {path}; give --bundle a folder or archive with core.yaml")
        return Path(path)
    for usual in _USUAL:
        if usual.exists():
            return usual
    places = ", ".join(map(str, _USUAL))
    raise TextError(
        f"CORE needs its bundle of tasks, and none of {places} is there; get {SOURCE} and give --bundle FILE"
    )


def open_bundle(path: Path) -> Bundle:
    """Reads a folder or archive that holds core.yaml, at whatever depth, into memory.

    Nothing is unpacked onto the disk. Raises `TextError` where it cannot be read or holds no bundle.
    """
    files: dict[str, bytes] = {}
    tables: dict[str, bytes] = {}
    titles, found = b"", False
    try:
        for name, data in _members(path):
            inside, last = _places(name)
            if inside in _WANTED:
                files[inside] = data
            elif last == _TITLES:
                titles = data
            elif last.endswith(_CSV_SUFFIX) and last != _META:
                tables[last.removesuffix(_CSV_SUFFIX)] = data
            found = found or last == "core.yaml"
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise TextError(f"bundle {path} cannot be read ({error}); get {SOURCE} again") from error
    if not found or not files:
        raise TextError(f"{path} holds no core.yaml with its eval_data; get {SOURCE}")
    published = tuple(sorted((_published(*table) for table in tables.items()), key=lambda row: row.core))
    return Bundle(path, files, tuple(titles.decode("utf-8", "replace").split("\n")[:-1]), published)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what may be of use."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and _useful(name):
                yield name, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and _useful(entry.filename):
                    yield entry.filename, archive.read(entry)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isfile() and _useful(member.name) else None
                if opened is not None:
                    yield member.name, opened.read()


def _useful(name: str) -> bool:
    inside, last = _places(name)
    # Archives made on a Mac hold a shadow "._NAME" of every file.
    table = last.endswith(_CSV_SUFFIX) and not last.startswith(".")
    return inside in _WANTED or last in (_TITLES, "core.yaml") or table


def _places(name: str) -> tuple[str, str]:
    """A member's name with the folder it lies in, which is how tasks name their files, and without."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[-2:]), parts[-1]


_FIELDS: dict[Kind, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}


def _item(line: bytes, task: Task, number: int) -> Item:
    where = f"line {number} of eval_data/{task.file}"
    try:
        item = json.loads(line)
    except ValueError as error:
        raise TextError(f"{where} is no JSON; take the bundle again") from error
    for field, kind in _FIELDS[task.kind].items():
        if not isinstance(item, dict) or not isinstance(item.get(field), kind):
            raise TextError(
                f"{where} has no {field!r}, which a {task.kind} task needs; take the bundle again"
            )
    options = item.get("choices") or item.get("context_options")
    if options is not None and not 0 <= item["gold"] < len(options):
        raise TextError(f"{where} says that option {item['gold']} of {len(options)} is right")
    return item


def _published(name: str, data: bytes) -> Published:
    """A table that nanochat wrote: Task, Accuracy, Centered, and CORE at the end."""
    centered: dict[str, float] = {}
    for line in data.decode("utf-8", "replace").splitlines()[1:]:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[2]:
            centered[cells[0]] = float(cells[2])
    core = centered.pop("CORE", float("nan"))
    return Published(name.removeprefix("openai-community-"), centered, core)
