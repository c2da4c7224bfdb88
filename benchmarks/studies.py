"""What the studies of this folder share: changes of a recipe, and the command line."""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from bytegolf.model.attention import Attention
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import TokenizerFile

Change = Callable[[Recipe], Recipe]


def on_model(**changes: object) -> Change:
    """A change of the network."""
    return lambda recipe: replace(recipe, model=replace(recipe.model, **changes))


def on_training(**changes: object) -> Change:
    """A change of training."""
    return lambda recipe: replace(recipe, training=replace(recipe.training, **changes))


def on_matrices(**changes: object) -> Change:
    """A change of the matrices' optimizer."""

    def changed(recipe: Recipe) -> Recipe:
        optimizers = recipe.training.optimizers
        matrices = replace(optimizers.matrices, **changes)
        return on_training(optimizers=replace(optimizers, matrices=matrices))(recipe)

    return changed


def on_layers(change: Callable[[int, int, Block], Block], **changes: object) -> Change:
    """A change of layers, each told its number and how many there are, and of the network about them."""

    def changed(recipe: Recipe) -> Recipe:
        layers = recipe.model.layers
        new = tuple(change(i, len(layers), layer) for i, layer in enumerate(layers))
        return on_model(layers=new, **changes)(recipe)

    return changed


def on_attention(change: Callable[[int, int, Attention], Attention], **changes: object) -> Change:
    """A change of the layers' attention, and of the network about them."""
    return on_layers(lambda i, n, layer: replace(layer, mixer=change(i, n, layer.mixer)), **changes)


def parser(doc: str | None, kind: str, names: Collection[str], out: str) -> argparse.ArgumentParser:
    """The options that all studies have: which `names`, what text, which seed, and where runs go."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument(f"{kind}s", nargs="*", choices=[*names, []], metavar=kind.upper())
    made.add_argument("--list", action="store_true", help="what there is, instead of running it")
    made.add_argument("--text", nargs="+", default=["kjv"])
    made.add_argument("--validation", nargs="*", default=[])
    made.add_argument("--tokenizer", help="a saved one; otherwise the recipe's is trained")
    made.add_argument("--prepared", default="", help="folder of prepared text that runs share")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--out", type=Path, default=Path("runs") / out)
    return made


def on_text(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe on the text of the command line, and with its seed."""
    return replace(
        recipe,
        text=Text(sources=tuple(options.text), validation=tuple(options.validation)),
        tokens=TokenizerFile(options.tokenizer) if options.tokenizer else recipe.tokens,
        prepared=options.prepared,
        training=replace(recipe.training, seed=options.seed),
    )


def first_line(text: str | None) -> str:
    """What a docstring says in short."""
    return (text or "").partition("\n")[0]


Words = Sequence[str] | None
