"""What --help prints: the list of commands, a command's options, and every setting of a recipe."""

import copy
import inspect
from dataclasses import replace
from typing import Any

from bytegolf.cli.options import COMMANDS

_DOTTED = (
    "Settings of a recipe are changed by their dotted path: --model.width 256, --training.budget.seconds 60, "
    "--model.layers.0.mixer.window 128, or for every layer --model.layers.*.mixer.window 128. A list takes "
    "several values, a class its name (--tokens Bytes) or JSON. --text FILES is short for --text.sources "
    "FILES."
)
_SWEEP = (
    "--set PATH=VALUE,VALUE may be given several times. A list or a class with settings is JSON, whose "
    "commas stay: --set 'training.validate_at=[0.5],[0.25,0.5]'. A text with a comma stands in double "
    "quotes: --set 'name=\"a,b\",c'. * in a path stands for every item: --set "
    "'model.layers.*.mixer.window=64,128'. Settings that all runs share are changed as for train: "
    "--training.budget.seconds 60, --text FILES."
)


def print_commands() -> None:
    """The top page."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        "usage: bytegolf COMMAND …\n\n"
        "Train a small language model under a budget of bytes and seconds,\n"
        "compress it into one file, and prove its score.\n",
        highlight=False,
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, options in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", (options.__doc__ or "").split("\n")[0])
    console.print(table, highlight=False)
    console.print(
        "\nbytegolf COMMAND --help       a command's options\n"
        "bytegolf train RECIPE --help  every setting of a recipe\n"
        "bytegolf train pocket         a first model, in five minutes",
        highlight=False,
    )


def print_command(name: str) -> None:
    """The options of one command."""
    _print(COMMANDS[name], name, inspect.cleandoc(COMMANDS[name].__doc__ or ""), {})
    notes = {
        "train": f"{_DOTTED}\n\nbytegolf train RECIPE --help lists every setting of a recipe.",
        "sweep": f"{_SWEEP}\n\nbytegolf sweep RECIPE --help lists every setting of a recipe.",
        "show": f"{_DOTTED}\n\nbytegolf show RECIPE --help lists every setting of a recipe.",
        "compress": "Settings below compression can be changed: --compression.budget_bytes 900000.",
        "prove": "The plan is changed by its path: --plan.stride 64, or as a whole: --plan Chunked.",
        "evaluate": "A plan is changed by its path: --plans.0.stride 64, or all of them: --plans Chunked.",
    }
    if name in notes:
        _note(notes[name])


def print_recipe(name: str, source: str, recipe: Any) -> None:
    """Every setting of a recipe, with its type and value, and the command's own options before them."""
    _print(COMMANDS[name], name, inspect.cleandoc(COMMANDS[name].__doc__ or ""), {})
    print()
    layers = recipe.model.layers
    alike = len(layers) > 1 and len(set(layers)) == 1
    if alike:
        # Nine times the same page helps nobody. It is shown, never built: loops would miss their layers.
        model = copy.copy(recipe.model)
        object.__setattr__(model, "layers", layers[:1])
        recipe = replace(recipe, model=model)
    _print(type(recipe), f"{name} {source}", f"Every setting of {source}.", {"default": recipe})
    _note(_DOTTED)
    if alike:
        _note(f"The {len(layers)} layers are alike; model.layers.0 stands for each of them.")


def _note(text: str) -> None:
    from rich.console import Console

    Console().print(f"\n{text}", highlight=False, markup=False)


def _print(kind: type, name: str, description: str, options: dict[str, Any]) -> None:
    import tyro

    # Switches are shown with their values, which is how they are read.
    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff)
    try:
        tyro.cli(
            kind,
            prog=f"bytegolf {name}",
            description=description,
            args=["--help"],
            config=config,
            **options,
        )
    except SystemExit:
        # tyro ends the program after its help.
        return
