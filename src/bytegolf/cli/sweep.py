"""`bytegolf sweep`: from the words to the groups of a sweep, and the table at its end."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bytegolf.cli.arguments import read_command
from bytegolf.cli.choices import Choice, groups_of, read_choices
from bytegolf.cli.comparison import print_side
from bytegolf.cli.draft import Draft
from bytegolf.cli.failures import INTERRUPTED, fail
from bytegolf.cli.help_pages import print_recipe
from bytegolf.cli.options import Sweep as Options
from bytegolf.cli.options import usage
from bytegolf.cli.recipe_files import built_in, find_recipe
from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.recipe import Recipe
from bytegolf.report.seeds import read_side, shared_plan
from bytegolf.running.sweep import PlannedRun, Sweep, carry_out, with_shared_tokens
from bytegolf.show.network import plan_of
from bytegolf.text.readers import source_files
from bytegolf.training.ranks import chosen_device
from bytegolf.training.signals import Interrupted
from bytegolf.tree import to_json


def sweep(words: Sequence[str]) -> int:
    """`bytegolf sweep RECIPE --seeds 1 2 3 --set path=a,b …`"""
    if not words or words[0].startswith("--"):
        raise RecipeError(
            f"sweep needs RECIPE first; write {usage('sweep')} (there are {', '.join(built_in())})"
        )
    recipe = find_recipe(words[0])
    if "--help" in words or "-h" in words:
        print_recipe("sweep", words[0], recipe)
        return 0
    planned, options = read_sweep(recipe, words)
    chosen_device(options.device)
    for source in {source for built in planned.groups.values() for source in _sources(built)}:
        source_files(source)
    console = Console()
    try:
        failed = carry_out(
            planned,
            device=options.device,
            say=lambda line: console.print(
                f"\n{line}", style="bold", markup=False, highlight=False, soft_wrap=True
            ),
        )
    except Interrupted:
        print("bytegolf: stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    print_groups(console, planned)
    if failed:
        return fail(_failures(failed, len(planned.runs())))
    return 0


def read_sweep(recipe: Recipe, words: Sequence[str]) -> tuple[Sweep, Options]:
    """The sweep that a command line asks for, with every recipe and its network built once for trial.

    Raises `BytegolfError` in one line for a word or a value that cannot work.
    """
    draft = Draft.of(recipe)
    options: Options = read_command(
        "sweep", Options, _gathered(words, "--set"), more=[draft], short={"text": "text.sources"}
    )
    if not options.seeds:
        raise RecipeError("sweep needs seeds; add --seeds 1 2 3")
    if len(set(options.seeds)) < len(options.seeds):
        raise RecipeError(f"--seeds {' '.join(map(str, options.seeds))} names a seed twice; name each once")
    base = draft.build()
    choices = read_choices(options.set)
    groups = {name: _recipe(base, settings) for name, settings in groups_of(choices).items()}
    folder = Path(options.folder or f"runs/{base.name}-sweep")
    description = _description(base, choices, options.seeds)
    return Sweep(folder, with_shared_tokens(folder, groups), options.seeds, description), options


def print_groups(console: Console, planned: Sweep) -> None:
    """The seeds of every group that has any, with their means."""
    for name in planned.groups:
        folders = [str(run.folder) for run in planned.runs() if run.group == name and run.finished]
        if folders:
            side = read_side(folders)
            console.print()
            print_side(console, name, side, shared_plan([side]))


def _sources(recipe: Recipe) -> tuple[str, ...]:
    return (*recipe.text.sources, *recipe.text.validation)


def _recipe(base: Recipe, settings: Sequence[tuple[str, str]]) -> Recipe:
    draft = Draft.of(base)
    try:
        for path, value in settings:
            draft.assign(path, [value])
        built = draft.build()
        # Some settings turn out not to fit only when the network is built, here without memory or text.
        plan_of(built)
        return built
    except BytegolfError as error:
        tried = " ".join(f"--{path} {value}" for path, value in settings)
        raise RecipeError(f"{error} (tried: {tried})") from error


def _description(base: Recipe, choices: Sequence[Choice], seeds: Sequence[int]) -> dict[str, Any]:
    # The seed of the base is never used.
    plain = replace(base, training=replace(base.training, seed=seeds[0]))
    return {
        "recipe": to_json(plain),
        "sets": {choice.path: list(choice.values) for choice in choices},
        "seeds": list(seeds),
    }


def _gathered(words: Sequence[str], option: str) -> list[str]:
    """The words with all values of an option that may be given several times behind its first place."""
    before: list[str] = []
    values: list[str] = []
    inside = False
    for word in words:
        if word == option:
            inside = True
        elif word.startswith(f"{option}="):
            inside = False
            values.append(word.partition("=")[2])
        elif inside and not word.startswith("--"):
            values.append(word)
        else:
            inside = False
            before.append(word)
    asked = any(word == option or word.startswith(f"{option}=") for word in words)
    return [*before, option, *values] if asked else before


def _failures(failed: Sequence[PlannedRun], count: int) -> str:
    names = ", ".join(str(run.folder) for run in failed)
    return (
        f"{len(failed)} of {count} runs failed, for the reason above: {names}; the same command tries again"
    )
