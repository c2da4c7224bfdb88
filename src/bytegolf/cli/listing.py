"""`bytegolf recipes`: names and first lines, without importing any recipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bytegolf.cli.arguments import read_command
from bytegolf.cli.options import Recipes
from bytegolf.cli.recipe_files import built_in


def list_recipes(words: Sequence[str]) -> int:
    """Prints the table."""
    read_command("recipes", Recipes, words)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, line in built_in().items():
        table.add_row(f"[bold]{name}[/]", line)
    Console().print(table, highlight=False)
    return 0
