"""What --help prints: the list of commands, a command's options, and every setting of a recipe."""

import inspect
import shutil
import textwrap
from dataclasses import replace
from typing import Any

from bytegolf.cli.options import COMMANDS

_DOTTED = (
    "Settings of a recipe are changed by their dotted path: --model.width 256, --training.budget.seconds 60, "
    "--model.layers.0.mixer.window 128, or for every layer --model.layers.*.mixer.window 128. A list takes "
    "several values, a class its name (--tokens Bytes) or JSON. --text FILES is short for --text.sources "
    "FILES."
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
    description = inspect.cleandoc(COMMANDS[name].__doc__ or "")
    if name in ("train", "show"):
        description += f"\n\n{_DOTTED}\n\n`bytegolf {name} RECIPE --help` lists every setting of a recipe."
    if name == "compress":
        description += "\n\nSettings below compression can be changed: --compression.budget_bytes 900000."
    if name == "evaluate":
        description += (
            "\n\nA plan is changed by its path: --plans.0.stride 64, or all of them: --plans Chunked."
        )
    _print(COMMANDS[name], name, description, {})


def print_recipe(name: str, source: str, recipe: Any) -> None:
    """Every setting of a recipe, with its type and value, below the command's own options."""
    print_command(name)
    layers = recipe.model.layers
    note = _DOTTED
    if len(set(layers)) == 1:
        # Nine times the same page helps nobody.
        recipe = replace(recipe, model=replace(recipe.model, layers=layers[:1]))
        note += f"\n\nThe {len(layers)} layers are alike; model.layers.0 stands for each of them."
    print()
    _print(type(recipe), f"{name} {source}", note, {"default": recipe})


def _print(kind: type, name: str, description: str, options: dict[str, Any]) -> None:
    import tyro

    # Switches are shown with their values, which is how they are read.
    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff)
    try:
        tyro.cli(
            kind,
            prog=f"bytegolf {name}",
            description=_wrapped(description),
            args=["--help"],
            config=config,
            **options,
        )
    except SystemExit:
        # tyro ends the program after its help.
        return


def _wrapped(text: str) -> str:
    """Paragraphs at the terminal's width; tyro prints a description as it is."""
    width = min(shutil.get_terminal_size().columns, 100)
    return "\n\n".join(textwrap.fill(part, width) for part in text.strip().split("\n\n"))
