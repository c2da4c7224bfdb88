"""What the documents claim: links, commands, paths, names, figures and code are those of this repository."""

import ast
import functools
import importlib
import itertools
import json
import pkgutil
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bytegolf.artifact.container import Contents, write_artifact
from bytegolf.cli import commands, packing
from bytegolf.cli.arguments import read_command
from bytegolf.cli.draft import Draft
from bytegolf.cli.options import COMMANDS, Compress, Evaluate, command_of
from bytegolf.cli.recipe_files import built_in, find_recipe
from bytegolf.cli.sweep import read_sweep
from bytegolf.compression.compress import compress_model
from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Memory
from bytegolf.recipes.pocket import RECIPE as POCKET
from bytegolf.submission import launcher
from bytegolf.tokens.raw_bytes import ByteTokenizer
from bytegolf.tree import to_json

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "bytegolf"
PAGES = sorted([*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def blocks(page: Path, *languages: str) -> list[str]:
    return [
        body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages
    ]


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def made_by_the_docs() -> dict[str, str]:
    """Files that a page shows whole, by the name in their first line."""
    found = {}
    for page in PAGES:
        for body in blocks(page, "python"):
            name = re.match(r"# ([\w./]+\.py)\n", body)
            if name:
                found[name.group(1)] = body
    return found


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    return broken


@EVERY_PAGE
def test_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[x](page.md#a-b) [y](none.md) [z](#c) [w](https://example.org)\n```\n[v](no.md)\n```\n"
    )
    assert broken_links(page) == ["none.md", "#c"]


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)\)", index.read_text())
    }
    assert [page for page in PAGES if "docs" in page.parts and page not in {index, *linked}] == []


# Commands


def shown_commands(page: Path) -> Iterator[str]:
    for line in itertools.chain(*(body.splitlines() for body in blocks(page, "", "sh", "bash"))):
        if re.match(r"(\S*/)?(bytegolf|torchrun)\s", line):
            yield line
    for span in spans(page):
        # Words in capitals stand for something: `bytegolf COMMAND`.
        if span.startswith("bytegolf ") and not re.search(r"\b[A-Z]{2,}\b|…", span):
            yield span


def words_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    if words[0] == "torchrun":
        return words[words.index("bytegolf") + 1 :]
    return words[1:]


def check_command(words: list[str]) -> None:
    """Reads a command line as the program does, without doing what it says. Raises `BytegolfError`."""
    name, rest = command_of(words)
    if name not in (*COMMANDS, "--help", "--version"):
        raise RecipeError(f"no command {name}")
    if not rest:
        return
    if name in ("train", "show") and not rest[0].startswith("--"):
        draft = Draft.of(find_recipe(rest[0]))
        if "--help" not in rest:
            read_command(name, COMMANDS[name], rest, more=[draft], short=commands._SHORT)
            draft.build()
    elif name == "compress":
        draft = Draft.of(commands.saved_recipe(Path(rest[0])))
        options: Compress = read_command(name, Compress, rest, more=[draft])
        draft.build()
        changed = [word for word in rest if word.startswith("--") and word != "--device"]
        assert options.folder == rest[0]
        assert all(word.startswith("--compression.") for word in changed), words
    elif name == "sweep" and "--help" not in rest:
        read_sweep(find_recipe(rest[0]), rest)
    elif name in ("pack", "unpack") and "--help" not in rest:
        assert read_command(name, COMMANDS[name], rest, short=packing._SHORT).artifact, (
            "-m ARTIFACT is missing"
        )
    elif rest != ["--help"]:
        options = read_command(name, COMMANDS[name], rest)
        assert not isinstance(options, Evaluate) or options.text, "evaluate needs --text"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of `pocket` and the files that the documents show."""
    (tmp_path / "runs" / "pocket").mkdir(parents=True)
    (tmp_path / "runs" / "pocket" / "recipe.json").write_text(json.dumps(to_json(POCKET)))
    for name, body in made_by_the_docs().items():
        if "/" not in name:
            (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@EVERY_PAGE
def test_commands_can_be_read(page: Path, workplace: Path) -> None:
    problems = []
    for command in shown_commands(page):
        try:
            check_command(words_of(command))
        except BytegolfError as error:
            problems.append(f"{command}: {error}")
    assert problems == []


@pytest.mark.parametrize(
    "command",
    [
        "bytegolf fly",
        "bytegolf train pockett",
        "bytegolf train pocket --model.widht 3",
        "bytegolf show pocket --model.layers.*.mixer.heads 0",
        "bytegolf evaluate a.bg --txt kjv",
        "bytegolf sweep pocket --seeds 1 2 --set model.widht=3,4",
        "bytegolf compare --against runs/pocket",
        "torchrun --nproc-per-node 2 -m bytegolf train nothing",
    ],
)
def test_a_wrong_command_is_found(command: str, workplace: Path) -> None:
    with pytest.raises(BytegolfError):
        check_command(words_of(command))


def takes(draft: Draft, path: str) -> bool:
    try:
        return draft.has(path) and draft.takes_many(path) in (True, False)
    except RecipeError:
        return False


@functools.cache
def drafts() -> list[Draft]:
    return [*map(Draft.blank, COMMANDS.values()), *(Draft.of(find_recipe(name)) for name in built_in())]


@pytest.mark.parametrize("page", [page for page in PAGES if "benchmarks" not in page.parts])
def test_options_in_the_text_exist(page: Path) -> None:
    shown = {span.split()[0].removeprefix("--") for span in spans(page) if re.match(r"--[a-z]", span)}
    if "train_gpt.py" in prose(page):
        shown -= set(re.findall(r"--(\w+)", launcher.command_line().format_help()))
    assert [path for path in shown if not any(takes(draft, path) for draft in drafts())] == []


# Paths and names


def missing_paths(page: Path) -> list[str]:
    made = made_by_the_docs()
    roots = (ROOT, PACKAGE, page.parent)
    missing = []
    for span in spans(page):
        is_path = re.fullmatch(r"[\w.\-]+(/[\w.\-]+)+/?", span) and re.search(r"(/|\.[a-z]+)$", span)
        first = span.split("/")[0]
        ours = not first.startswith((".", "runs")) and any(
            (root / first).exists() for root in (ROOT, PACKAGE)
        )
        if is_path and ours and span not in made and not any((root / span).exists() for root in roots):
            missing.append(span)
    return missing


def missing_names(page: Path) -> list[str]:
    """Dotted names of the package, and Class.member, that do not exist."""
    missing = []
    for span in spans(page):
        plain = span.partition("(")[0]
        if re.fullmatch(r"bytegolf(\.\w+)+", plain):
            if not has_dotted_name(plain):
                missing.append(plain)
        elif re.fullmatch(r"[A-Z][A-Za-z0-9]*\.[a-z_]+", plain):
            name, _, member = plain.partition(".")
            if member not in members().get(name, set()):
                missing.append(plain)
    return missing


def has_dotted_name(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@functools.cache
def members() -> dict[str, set[str]]:
    """The fields, methods and attributes of every class in the package."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef):
                        names.add(inner.name)
                    elif isinstance(inner, ast.Name | ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        names.add(inner.id if isinstance(inner, ast.Name) else inner.attr)
    return found


@EVERY_PAGE
def test_paths_and_names_exist(page: Path) -> None:
    assert missing_paths(page) == []
    assert missing_names(page) == []


def test_a_missing_path_or_name_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`src/bytegolf/model/mlp.py` `model/mlp.py` `model/none.py` `bytegolf.load` `bytegolf.none.load(x)` "
        "`Grid.quantize` `Grid.quantise`"
    )
    assert missing_paths(page) == ["model/none.py"]
    assert missing_names(page) == ["bytegolf.none.load", "Grid.quantise"]


# Figures: `<!-- figures` lists RECORD[:LINE] PATH VALUE, where VALUE is what the page prints.


def figures(page: Path) -> list[tuple[str, str, str]]:
    listed = re.findall(r"<!-- figures\n(.*?)-->", page.read_text(encoding="utf-8"), re.DOTALL)
    found = []
    for line in "".join(listed).splitlines():
        record, rest = line.split(" ", 1)
        path, value = rest.rsplit(" ", 1)
        found.append((record, path, value))
    return found


def recorded(record: str, path: str) -> float:
    name, _, line = record.partition(":")
    text = (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")
    data = json.loads(text.splitlines()[int(line) - 1] if line else text)
    chosen = re.fullmatch(r"scores\[(\w+), (.+)\]\.(\w+)", path)
    if chosen:
        model, plan, key = chosen.groups()
        rows = [row for row in data["scores"] if (row["model"], row["plan"]) == (model, plan)]
        assert len(rows) == 1, f"{record} has {len(rows)} scores of {model}, {plan}"
        return rows[0][key]
    for part in path.split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def as_printed(value: float, like: str) -> str:
    decimals = len(like.partition(".")[2])
    return f"{value:,.{decimals}f}" if "," in like else f"{value:.{decimals}f}"


@EVERY_PAGE
def test_figures_are_those_of_the_records(page: Path) -> None:
    for record, path, value in figures(page):
        assert as_printed(recorded(record, path), value) == value, f"{record} {path}"
        assert value in prose(page), f"{value} is listed but not shown"


TECHNIQUES = [page for page in PAGES if page.parent.name == "techniques"]


@pytest.mark.parametrize("page", TECHNIQUES, ids=lambda page: page.stem)
def test_a_technique_has_its_sections_and_lists_its_scores(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in ("Formula", "Format")
    assert headings[-4:] == ["Source", "In the code", "Traps", "What it gave here"]
    shown = set(re.findall(r"(?<![\w.,])1\.[12]\d{3}\b", prose(page).partition("## What it gave here")[2]))
    assert shown <= {value for _, _, value in figures(page)}


@EVERY_PAGE
def test_python_is_python_and_its_imports_exist(page: Path) -> None:
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)


def test_the_tutorial_s_python_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Model(width=16, layers=(Block(Attention(2, 1), SquaredMlp(hidden=16)),), vocabulary=257)
    torch.manual_seed(0)
    model = spec.build()
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    recipe = to_json(POCKET) | {"model": to_json(spec)}
    tensors = compress_model(dict(model.named_parameters()), roles, {}, passthrough_elements=10**6)
    contents = Contents(recipe, ByteTokenizer().to_bytes(), tensors, roles, {"steps": 0})
    write_artifact(workplace / "runs" / "pocket" / "artifact.bg", contents)
    block = next(b for b in blocks(ROOT / "docs" / "tutorial.md", "python") if "bytegolf.load" in b)
    exec(compile(block, "tutorial.md", "exec"), {})
    assert "bits per byte, 56 tokens, 55 bytes" in capsys.readouterr().out


def shown_module(name: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "shown"}
    exec(compile(made_by_the_docs()[name], name, "exec", dont_inherit=True), space)
    return space


@pytest.mark.parametrize(
    "block",
    [
        lambda: Block(Attention(2, 1), shown_module("src/bytegolf/model/gelu_mlp.py")["GeluMlp"](20)),
        lambda: Block(shown_module("src/bytegolf/model/shift.py")["Shift"](), SquaredMlp(20)),
    ],
    ids=["mlp", "mixer"],
)
@torch.no_grad()
def test_the_shown_techniques_keep_the_contracts(block: Callable[[], Block]) -> None:
    torch.manual_seed(0)
    model = Model(width=16, layers=(block(),) * 2, vocabulary=19, skips=False).build().double()
    model.compute_dtype = torch.float64
    assert set(parameter_roles(model)) == {name for name, _ in model.named_parameters()}
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    ids = torch.randint(0, 19, (2, 12))
    starts = (torch.arange(12) % 7 == 0).repeat(2, 1)
    logs = model.log_probabilities(ids, starts)
    memory = Memory()
    borders = [0, 1, 2, 5, 9, 12]
    decoded = [
        model.log_probabilities(ids[:, a:b], starts[:, a:b], memory) for a, b in itertools.pairwise(borders)
    ]
    torch.testing.assert_close(torch.cat(decoded, dim=1), logs, rtol=0, atol=1e-10)
    changed = ids.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 19
    differs = (model.log_probabilities(changed, starts) != logs).any(-1)
    assert differs[0, 4]
    assert not differs[0, :4].any()
    assert not differs[0, 7:].any()
    assert not differs[1].any()
