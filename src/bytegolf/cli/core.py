"""`bytegolf core`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.cli.arguments import read_command
from bytegolf.cli.options import Core
from bytegolf.errors import RecipeError
from bytegolf.evaluation.core.bundle import Bundle, find_bundle, open_bundle
from bytegolf.evaluation.core.huggingface import HuggingFaceReader
from bytegolf.evaluation.core.reader import ModelReader, Reader
from bytegolf.evaluation.core.record import Record, Watch, evaluate, settings_of
from bytegolf.evaluation.core.results import CoreResult, contamination
from bytegolf.evaluation.core.tasks import Task, tasks_named
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import artifact_in, open_artifact
from bytegolf.training.ranks import chosen_device


def core(words: Sequence[str]) -> int:
    """`bytegolf core MODEL …`"""
    options: Core = read_command("core", Core, words)
    if options.max_per_task is not None and options.max_per_task < 1:
        raise RecipeError(f"--max-per-task is {options.max_per_task}; give a positive number")
    if options.context is not None and options.context < 2:
        raise RecipeError(f"--context is {options.context}; give at least 2")
    tasks = tasks_named(options.tasks)
    # Before a model is loaded, which may take long.
    bundle = open_bundle(find_bundle(options.bundle))
    console, display = Console(), Display(Console(stderr=True))
    with display.line():
        display.update("loading the model …")
        reader, folder = _reader(options)
        record = Record(folder, settings_of(reader, bundle, tasks, options.max_per_task))
        result = evaluate(reader, bundle, tasks, record, options.max_per_task, _watch(tasks, display))
    _print(console, result, bundle)
    from bytegolf.report.core_page import write_core_page  # draws, which takes half a second to import

    console.print(f"\nreport  {write_core_page(folder)}", highlight=False, soft_wrap=True, markup=False)
    return 0


def _reader(options: Core) -> tuple[Reader, Path]:
    """The model, and the folder of its answers."""
    path = artifact_in(Path(options.model))
    reader: Reader
    if path.is_file():
        artifact = open_artifact(path, device=options.device)
        reader = ModelReader(
            artifact.model,
            artifact.tokenizer,
            name=str(artifact.recipe.get("name", path.stem)),
            digest=artifact.digest.hex(),
            context=artifact.context,
        )
        folder = path.parent
    elif path.suffix == ".bg":
        raise RecipeError(f"there is no artifact {path}")
    else:
        device = chosen_device(options.device)
        reader = HuggingFaceReader(options.model, device, trusted=options.trust_remote_code)
        folder = Path("runs") / Path(reader.name).name
    if options.context is not None:
        reader.context = options.context
    cap = "core" if options.max_per_task is None else f"core-{options.max_per_task}"
    return reader, Path(options.folder) if options.folder else folder / cap


def _watch(tasks: Sequence[Task], display: Display) -> Watch:
    numbers = {task.label: number for number, task in enumerate(tasks, 1)}

    def show(task: Task, done: int, total: int) -> None:
        share = 100 * done // total
        display.update(
            f"{numbers[task.label]} of {len(tasks)}  {task.label}  {done:,} of {total:,}  {share} %"
        )

    return show


def _print(console: Console, result: CoreResult, bundle: Bundle) -> None:
    # Beside published models where there is room for them.
    published = bundle.published if console.width >= 78 + 13 * len(bundle.published) else ()
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("task", no_wrap=True)
    for name in ("items", "accuracy", "centered", "±", *(row.model for row in published)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.tasks:
        label = row.task.label
        table.add_row(
            label,
            f"{row.items:,}",
            f"{row.accuracy:.4f}",
            Text(f"{row.centered:.4f}", "bold"),
            f"{row.error:.4f}",
            *(_number(other.centered.get(label)) for other in published),
        )
    if result.core is not None:
        own = (Text(f"{result.core:.4f}", "bold"), _number(result.error))
        table.add_row(Text("CORE", "bold"), "", "", *own, *(_number(row.core) for row in published))
    console.print(table, highlight=False)
    if not published:
        named = ", ".join(f"{row.model} {row.core:.4f}" for row in bundle.published)
        console.print(f"\nCORE of published models: {named}", highlight=False)
    warning = contamination(result, bundle.titles)
    if warning is not None:
        console.print(Text(f"\n{warning}", "yellow"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
