"""Finding recipes: by name among those that come with the package, or in a file of the user's own."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from bytegolf.errors import BytegolfError, RecipeError

if TYPE_CHECKING:
    from bytegolf.recipe import Recipe

_FOLDER = Path(__file__).parents[1] / "recipes"


def built_in() -> dict[str, str]:
    """Name and first line of every recipe in the package, read without running any."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        for path in sorted(_FOLDER.glob("*.py"))
        if not path.stem.startswith("_")
    }


def find_recipe(source: str) -> Recipe:
    """The recipe that `source` names: a built-in name, a .py file with RECIPE, or a .json file.

    Raises `RecipeError` if there is none. Imports torch, so only commands that need a recipe call it.
    """
    path = Path(source)
    if path.suffix not in (".py", ".json"):
        names = built_in()
        if source not in names:
            near = difflib.get_close_matches(source, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise RecipeError(
                f"recipe {source!r} is unknown; {hint}{'' if near else ', or name a .py or .json file'}"
            )
        return importlib.import_module(f"bytegolf.recipes.{source}").RECIPE
    return _from_json_file(path) if path.suffix == ".json" else _from_python_file(path)


def _from_json_file(path: Path) -> Recipe:
    from bytegolf.recipe import Recipe
    from bytegolf.tree import from_json

    try:
        return from_json(Recipe, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no recipe: {error}; name a run's recipe.json") from error
    except BytegolfError as error:
        raise RecipeError(f"{path}: {error}") from error


def _from_python_file(path: Path) -> Recipe:
    from bytegolf.recipe import Recipe

    if not path.is_file():
        raise RecipeError(f"recipe file {path} does not exist; check the path, or see `bytegolf recipes`")
    try:
        found = runpy.run_path(str(path)).get("RECIPE")
    except BytegolfError as error:
        raise RecipeError(f"{path}: {error}") from error
    except Exception as error:
        # The user's own program: whatever it raises is theirs to put right.
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(found, Recipe):
        raise RecipeError(f"{path} defines no RECIPE; end it with RECIPE = Recipe(...)")
    return found
