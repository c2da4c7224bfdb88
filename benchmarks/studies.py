"""What the studies of this folder share: changes of a recipe, a small network, and the command line."""

import argparse
import itertools
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from bytegolf.compression.spec import Compression
from bytegolf.errors import RecipeError
from bytegolf.evaluation.bits import token_stream
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.recipes.baseline import RECIPE as BASELINE
from bytegolf.report.run_folder import read_run
from bytegolf.running.prepared import open_data
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.shards import Prepared
from bytegolf.tokens.spec import TokenizerFile
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks

Change = Callable[[Recipe], Recipe]
Words = Sequence[str] | None

#: The network of the studies that train many: nine layers of this width.
WIDTH = 384
LAYER = Block(Attention(heads=6, key_value_heads=3, query_gain=1.5), SquaredMlp(hidden=2 * WIDTH))
NINE_LAYERS = replace(BASELINE.model, width=WIDTH, layers=(LAYER,) * 9)


def on_model(**changes: object) -> Change:
    """A change of the network."""
    return lambda recipe: replace(recipe, model=replace(recipe.model, **changes))


def on_training(**changes: object) -> Change:
    """A change of training."""
    return lambda recipe: replace(recipe, training=replace(recipe.training, **changes))


def on_compression(**changes: object) -> Change:
    """A change of how weights are stored."""
    return lambda recipe: replace(recipe, compression=replace(recipe.compression, **changes))


def on_optimizer(which: Literal["matrices", "embedding", "scalars"], **changes: object) -> Change:
    """A change of one of the optimizers."""

    def changed(recipe: Recipe) -> Recipe:
        optimizers = recipe.training.optimizers
        own = replace(getattr(optimizers, which), **changes)
        return on_training(optimizers=replace(optimizers, **{which: own}))(recipe)

    return changed


def on_matrices(**changes: object) -> Change:
    """A change of the matrices' optimizer."""
    return on_optimizer("matrices", **changes)


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


def parser(doc: str | None, kind: str, names: Collection[str] | None, out: str) -> argparse.ArgumentParser:
    """The options that all studies have: which `names`, what text, which seed, and where runs go.

    Without `names` any word will do.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument(f"{kind}s", nargs="*", choices=names and [*names, []], metavar=kind.upper())
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


def each(names: Iterable[str], study: Callable[[str], object]) -> None:
    """Studies one after another. What fails is said, and the others go on; then the exit code is 1."""
    failed = []
    for name in names:
        try:
            study(name)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


def preparable(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The option of studies of which several run at a time."""
    made.add_argument("--prepare", action="store_true", help="the text, and train nothing")
    return made


def prepare_or_study(
    options: argparse.Namespace, recipes: Mapping[str, Recipe], study: Callable[[str], object]
) -> None:
    """Studies each, or with --prepare makes the tokens of all in the folders that they name."""
    if not options.prepare:
        each(recipes, study)
        return
    for recipe in {recipe.prepared: recipe for recipe in recipes.values()}.values():
        if not recipe.prepared:
            raise RecipeError("there is no folder to prepare; name one with --prepared")
        display = Display(Console(width=160))
        with display.line():
            open_data(recipe, Path(recipe.prepared), Ranks(), display)


def tabled(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The option of studies that make a table of finished runs."""
    made.add_argument("--table", type=Path, metavar="FOLDER", help="of runs, instead of running")
    return made


def with_tokens(made: argparse.ArgumentParser, tokens: int) -> argparse.ArgumentParser:
    """The further options of studies of small networks: equal tokens, and a table of finished runs."""
    tabled(made).add_argument("--tokens", type=int, default=tokens)
    return made


def small_recipe(name: str, model: Model, compression: Compression, tokens: int) -> Recipe:
    """A network trained for so many tokens, 65,536 a step, and scored in chunks of 1,024."""
    training = replace(
        BASELINE.training,
        budget=Budget(tokens=tokens),
        rows=64,
        forward_rows=64,
        average=Average(decay=0.98),
        validate_at=(),
    )
    return Recipe(
        name=name,
        tokens=BASELINE.tokens,
        model=model,
        training=training,
        compression=compression,
        evaluation=Evaluation(plans=(Chunked(1024),)),
    )


def held_out(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """The held-out documents as one stream of ids, and where each begins."""
    return token_stream(prepared.tokenizer, [document.text for document in prepared.validation_documents()])


def float_and_file(result: dict[str, Any]) -> tuple[float, float]:
    """Bits per byte of a run's trained model and of its artifact, each as it was scored first."""
    scores = {score["model"]: score["bits_per_byte"] for score in reversed(result["scores"])}
    return scores["float"], scores["artifact"]


def finished(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """What result.json holds of every run NAME-seedN below a folder, by seed."""
    paths = sorted(folder.glob(f"{name}-seed*/result.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {result["seed"]: result for result in found}


def compared(
    folder: Path, controls: Mapping[str, str], held_against: Literal["float", "file"] = "float"
) -> Iterator[dict[str, Any]]:
    """A row for each change with runs below a folder: means over the seeds that its control has too.

    `controls` names every change's. Differences are those of one seed, in the score `held_against`; their
    spread and the control's noise are standard deviations over the seeds, None of a single one.
    """
    results = {name: finished(folder, name) for name in controls}
    for name, control in controls.items():
        common = sorted(results[name].keys() & results[control].keys())
        if not common:
            continue
        runs = [results[name][seed] for seed in common]
        scores, bases = (
            [dict(zip(("float", "file"), float_and_file(run), strict=True)) for run in side]
            for side in (runs, [results[control][seed] for seed in common])
        )
        base = [row[held_against] for row in bases]
        differences = [row[held_against] - other for row, other in zip(scores, base, strict=True)]
        yield {
            "change": name,
            "control": control,
            "seeds": common,
            "float": statistics.mean(row["float"] for row in scores),
            "file": statistics.mean(row["file"] for row in scores),
            "difference": statistics.mean(differences),
            "spread": _deviation(differences),
            "noise": _deviation(base),
            "runs": runs,
        }


def step_milliseconds(folder: Path) -> float:
    """The median duration of a run's steps, of which its record may hold only some."""
    numbers, seconds = read_run(folder).points("train", "step", "seconds")
    events = itertools.pairwise(zip(numbers, seconds, strict=True))
    return 1000 * statistics.median((late - early) / (n - m) for (m, early), (n, late) in events)


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def deviation_text(value: float | None) -> str:
    """A deviation for people; nothing where there is none."""
    return "" if value is None else f"{value:.4f}"
