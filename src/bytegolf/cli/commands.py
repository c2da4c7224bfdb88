"""The commands that compute. Each takes the words after its name and returns the exit code."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bytegolf.artifact.container import read_artifact
from bytegolf.cli.arguments import read_command
from bytegolf.cli.core import core
from bytegolf.cli.draft import Draft
from bytegolf.cli.export import export_challenge, export_huggingface
from bytegolf.cli.failures import INTERRUPTED
from bytegolf.cli.help_pages import print_recipe
from bytegolf.cli.options import Compress, Doctor, Evaluate, Generate, Report, Show, Train, usage
from bytegolf.cli.packing import pack, unpack
from bytegolf.cli.prove import prove
from bytegolf.cli.recipe_files import built_in, find_recipe
from bytegolf.cli.summary import print_scores, print_summary
from bytegolf.cli.sweep import sweep
from bytegolf.doctor import diagnose, print_diagnosis
from bytegolf.errors import RecipeError
from bytegolf.recipe import Recipe
from bytegolf.runner import compress_run, free_folder, run, saved_recipe
from bytegolf.running.outcome import evaluate_artifact
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import open_artifact
from bytegolf.serving.generate import generate
from bytegolf.show.network import plan_of
from bytegolf.show.page import print_plan
from bytegolf.show.picture import check_format, draw_svg
from bytegolf.training.signals import Interrupted

_SHORT = {"text": "text.sources"}


def train(words: Sequence[str]) -> int:
    """`bytegolf train RECIPE …`, or `bytegolf train --resume FOLDER`."""
    source, recipe = _recipe_word(words)
    if recipe is not None and _wants_help(words):
        print_recipe("train", source, recipe)
        return 0
    if recipe is None and not any(word.startswith("--resume") for word in words):
        raise RecipeError(f"train needs RECIPE first; {_recipes_line('train')}")
    draft = None if recipe is None else Draft.of(recipe)
    more = [] if draft is None else [draft]
    options: Train = read_command("train", Train, words, more=more, short=_SHORT if more else None)
    if options.resume:
        if recipe is not None:
            raise RecipeError(
                f"--resume {options.resume} continues the recipe that folder holds; leave out {source!r}"
            )
        folder = Path(options.resume)
        return _train(saved_recipe(folder), folder, resume=True, device=options.device)
    if draft is None:
        raise RecipeError("--resume needs the folder of a run")
    changed = draft.build()
    folder = Path(options.folder) if options.folder else free_folder(changed.name, options.device)
    return _train(changed, folder, resume=False, device=options.device)


def _train(recipe: Recipe, folder: Path, *, resume: bool, device: str) -> int:
    console = Console()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        result = run(recipe, folder, resume=resume, device=device, console=console)
    except (Interrupted, KeyboardInterrupt):
        if any((folder / "checkpoint").glob("*")):
            how = f"continue with: bytegolf train --resume {folder}"
        else:
            how = "nothing was trained yet"
            _discard(folder, made)
        print(f"bytegolf: stopped; {how}", file=sys.stderr)
        return INTERRUPTED
    except BaseException:
        _discard(folder, made)
        raise
    if result:
        print_summary(console, result)
    return 0


def _discard(folder: Path, made: Sequence[Path]) -> None:
    """Removes a run folder that holds nothing worth keeping, if it is among the folders we made."""
    metrics = folder / "metrics.jsonl"
    trained = metrics.exists() and metrics.stat().st_size > 0
    if folder in made and not trained and not any((folder / "checkpoint").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
        for above in made[1:]:
            with contextlib.suppress(OSError):
                above.rmdir()


def compress(words: Sequence[str]) -> int:
    """`bytegolf compress FOLDER …`"""
    folder = _first_word("compress", words)
    draft = Draft.of(saved_recipe(Path(folder)))
    options: Compress = read_command("compress", Compress, words, more=[draft])
    changed = draft.build()
    original = saved_recipe(Path(folder))
    allowed = replace(original, compression=changed.compression)
    # The checkpoint holds the last weights beside their average.
    if changed.training.average is None:
        allowed = replace(allowed, training=replace(allowed.training, average=None))
    if changed != allowed:
        raise RecipeError(
            "compress changes only settings below compression, such as --compression.budget_bytes; from "
            "training no more than --training.average none, which keeps the last weights"
        )
    console = Console()
    print_summary(
        console, compress_run(Path(options.folder), changed, device=options.device, console=console)
    )
    return 0


def evaluate(words: Sequence[str]) -> int:
    """`bytegolf evaluate ARTIFACT --text …`"""
    contents = read_artifact(Path(_first_word("evaluate", words)))
    draft = Draft.blank(Evaluate)
    evaluation = contents.recipe.get("evaluation")
    if isinstance(evaluation, dict) and "plans" in evaluation:
        draft.assign_plain("plans", evaluation["plans"])
    options: Evaluate = read_command("evaluate", draft, words)
    if not options.text:
        raise RecipeError("evaluate needs a text to score; add --text FILES")
    display = Display(Console(stderr=True))
    with display.line():
        rows = evaluate_artifact(
            Path(options.artifact),
            options.text,
            options.plans,
            field=options.field,
            cut_bytes=options.cut_bytes,
            adapt=options.adapt,
            device=options.device,
            display=display,
        )
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_scores(Console(), rows)
    return 0


def write(words: Sequence[str]) -> int:
    """`bytegolf generate ARTIFACT [PROMPT] …`"""
    options: Generate = read_command("generate", Generate, words)
    artifact = open_artifact(options.artifact, device=options.device)
    pieces = generate(
        artifact.model,
        artifact.tokenizer,
        os.fsencode(options.prompt),
        tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop_at_document_end=options.stop_at_document_end,
        context=artifact.context,
    )
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        print()
    return 0


def show(words: Sequence[str]) -> int:
    """`bytegolf show RECIPE …`"""
    source, recipe = _recipe_word(words)
    if recipe is None:
        raise RecipeError(f"show needs RECIPE first; {_recipes_line('show')}")
    if _wants_help(words):
        print_recipe("show", source, recipe)
        return 0
    draft = Draft.of(recipe)
    options: Show = read_command("show", Show, words, more=[draft], short=_SHORT)
    if options.svg:
        check_format(Path(options.svg))
    plan = plan_of(draft.build(), tokens_per_second=options.tokens_per_second)
    print_plan(Console(), plan)
    if options.svg:
        draw_svg(plan, Path(options.svg))
    return 0


def doctor(words: Sequence[str]) -> int:
    """`bytegolf doctor`"""
    options: Doctor = read_command("doctor", Doctor, words)
    findings = diagnose()
    if options.json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=1))
    else:
        print_diagnosis(Console(), findings)
    return 0


def report(words: Sequence[str]) -> int:
    """`bytegolf report FOLDER`"""
    from bytegolf.report.page import write_report  # draws, which takes half a second to import

    options: Report = read_command("report", Report, words)
    print(write_report(Path(options.folder)))
    return 0


RUNNERS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sweep": sweep,
    "compress": compress,
    "evaluate": evaluate,
    "prove": prove,
    "core": core,
    "generate": write,
    "pack": pack,
    "unpack": unpack,
    "show": show,
    "doctor": doctor,
    "report": report,
    "export challenge": export_challenge,
    "export huggingface": export_huggingface,
}


def _recipe_word(words: Sequence[str]) -> tuple[str, Recipe | None]:
    """The recipe that the first word names; none where the first word is an option."""
    if not words or words[0].startswith("--"):
        return "", None
    return words[0], find_recipe(words[0])


def _recipes_line(name: str) -> str:
    return f"write {usage(name)} OPTIONS (there are {', '.join(built_in())})"


def _first_word(name: str, words: Sequence[str]) -> str:
    if not words or words[0].startswith("--"):
        raise RecipeError(f"{name} needs its argument first; write {usage(name)} OPTIONS")
    return words[0]


def _wants_help(words: Sequence[str]) -> bool:
    return "--help" in words or "-h" in words
