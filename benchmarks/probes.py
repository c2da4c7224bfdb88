"""Short trainings of the recipe `best` with a change or some: what it is chosen by.

    python benchmarks/probes.py --list
    python benchmarks/probes.py CHANGE[+CHANGE…]… --text FILE… --validation FILE --tokenizer FILE \
        [--seconds 120] [--seed N] [--compress] [--out FOLDER] [--prepared FOLDER [--prepare]]

Each appends a line to FOLDER/probes.jsonl: bits per byte of the trained model on the held-out text, in chunks
of 1,024 and sliding by an eighth of its longest rows, and on its last hundred training batches, which tells
what it knows by heart. Rates fall over the seconds given, so a short training is no beginning of a long one.
With --compress the file too, under the recipe's budget of bytes. What fails is said, and the others go on.
"""

import functools
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from studies import (
    Change,
    Words,
    held_out,
    on_attention,
    on_layers,
    on_matrices,
    on_model,
    on_optimizer,
    on_text,
    on_training,
    parser,
    preparable,
    prepare_or_study,
    step_milliseconds,
)

from bytegolf.artifact.loading import load
from bytegolf.errors import RecipeError
from bytegolf.evaluation.bits import score
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.files import write_json
from bytegolf.model.attention import Attention
from bytegolf.recipe import Recipe
from bytegolf.recipes.best import RECIPE as BEST
from bytegolf.report.run_folder import read_run
from bytegolf.runner import Trained, train
from bytegolf.running.environment import describe_environment
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.longer_rows import LongerRows
from bytegolf.training.ranks import Ranks
from bytegolf.tree import to_json

#: Steps at the end of training whose batches are compared with held-out text.
_LAST_STEPS = 100


def on_width(width: int) -> Change:
    """Another width, with heads of 64 channels, half as many of keys and values, and a threefold MLP."""
    return on_layers(
        lambda i, n, layer: replace(
            layer,
            mixer=replace(layer.mixer, heads=width // 64, key_value_heads=width // 128),
            mlp=replace(layer.mlp, hidden=3 * width),
        ),
        width=width,
    )


def on_depth(layers: int) -> Change:
    """So many layers, all as the first."""
    return lambda recipe: on_model(layers=recipe.model.layers[:1] * layers)(recipe)


def on_rows(length: int, longer: LongerRows) -> Change:
    """Rows of another length, as many tokens a step, joined later."""

    def changed(recipe: Recipe) -> Recipe:
        training = recipe.training
        rows = training.rows * training.length // length
        return on_training(length=length, rows=rows, forward_rows=rows, longer_rows=longer)(recipe)

    return changed


def alternating(layer: int, layers: int, mixer: Attention, window: int = 256) -> Attention:
    """Every other layer sees a window, the last one the row."""
    return replace(mixer, window=window) if (layers - 1 - layer) % 2 else mixer


CHANGES: dict[str, Change] = {
    "none": lambda recipe: recipe,
    **{f"decay-{decay:g}": on_matrices(weight_decay=decay) for decay in (0.12, 0.16, 0.2, 0.3)},
    **{f"rate-{rate:g}": on_matrices(learning_rate=rate) for rate in (0.02, 0.035)},
    **{f"width-{width}": on_width(width) for width in (512, 768, 896)},
    **{f"layers-{layers}": on_depth(layers) for layers in (5, 7, 8, 9)},
    "cautious": on_matrices(cautious=True),
    "second-moment": on_matrices(second_moment=0.95),
    "uniform-start": on_model(initialization="uniform"),
    "embedding-decay": on_optimizer("embedding", weight_decay=0.02),
    "embedding-rate-0.014": on_optimizer("embedding", learning_rate=0.014),
    "average-0.98": on_training(average=Average(decay=0.98)),
    "average-0.9": on_training(average=Average(decay=0.9)),
    **{f"short-rows-until-{start:g}": on_rows(512, LongerRows(start=start)) for start in (0.3, 0.5, 0.7)},
    **{f"longer-rows-from-{start:g}": on_rows(1024, LongerRows(start=start)) for start in (0.75, 0.9)},
    "short-then-longer-rows": on_rows(512, LongerRows(start=0.6, times=4)),
    "windows": on_attention(alternating),
    "heads-of-128": on_attention(lambda i, n, mixer: replace(mixer, heads=5, key_value_heads=5)),
    "exclusive": on_attention(lambda i, n, mixer: replace(mixer, exclusive=True)),
    "slope": on_layers(lambda i, n, layer: replace(layer, mlp=replace(layer.mlp, slope=0.5))),
}


def changed(names: str, recipe: Recipe) -> Recipe:
    """The recipe with all changes of CHANGE+CHANGE…, in this order. Raises `RecipeError` for one unknown."""
    for name in names.split("+"):
        if name not in CHANGES:
            raise RecipeError(f"{name} is no change; there are {', '.join(CHANGES)}")
    return functools.reduce(lambda made, name: CHANGES[name](made), names.split("+"), recipe)


def probe(recipe: Recipe, folder: Path, console: Console, *, compress: bool) -> dict[str, Any]:
    """One training, and what its line says."""
    ranks, display = Ranks.start("auto"), Display(console)
    if folder.exists():
        raise RecipeError(f"{folder} is there already; delete it, or name another with --out")
    # What was compiled for the one before neither speeds this one up nor slows it down.
    torch.compiler.reset()
    folder.mkdir(parents=True)
    write_json(folder / "recipe.json", to_json(recipe))
    with display.line():
        trained = train(recipe, folder, resume=False, ranks=ranks, display=display)
        prepared = trained.prepared
        tokenizer = prepared.tokenizer
        ids, starts = held_out(prepared)
        scored = functools.partial(score, tokenizer=tokenizer, ids=ids, starts=starts, plan=Chunked(1024))
        row = {"float": scored(trained.model).bits_per_byte, "last_batches": last_batches(trained, folder)}
        longest = longest_rows(trained.recipe)
        sliding = score(trained.model, tokenizer, ids, starts, Sliding(longest, longest // 8))
        row |= {"sliding": sliding.bits_per_byte, "sliding_plan": sliding.plan}
        if compress:
            display.update("compressing …")
            plan, training = trained.seen_plan, trained.training
            exported = export(trained.model, trained.recipe, prepared, plan, training, folder)
            file = scored(load(exported.path, device=ranks.device).model)
            row |= {"file": file.bits_per_byte, "bytes": exported.account.total_bytes}
        display.say(f"scored   {row['float']:.4f} bits/byte, {row['last_batches']:.4f} on its last batches")
    return row | {
        "step_ms": step_milliseconds(folder),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "training": trained.training,
        "machine": describe_environment(),
    }


def longest_rows(recipe: Recipe) -> int:
    """How many tokens a row of training has in the end."""
    longer = recipe.training.longer_rows
    return recipe.training.length * (1 if longer is None else longer.times)


def last_batches(trained: Trained, folder: Path) -> float:
    """Bits per byte of the last batches before they were learned from, in training's own precision."""
    losses, steps = read_run(folder).points("train", "loss", "step")
    late = [loss for loss, step in zip(losses, steps, strict=True) if step > steps[-1] - _LAST_STEPS]
    text = trained.prepared.training
    return statistics.mean(late) / math.log(2) * text.tokens / text.bytes


def main(words: Words = None) -> None:
    made = preparable(parser(__doc__, "change", None, "probes"))
    made.add_argument("--seconds", type=float, default=120.0)
    made.add_argument("--compress", action="store_true", help="score the file too")
    options = made.parse_args(words)
    console = Console(width=160)
    if options.list:
        print("\n".join(CHANGES))
    training = replace(BEST.training, budget=Budget(seconds=options.seconds), validate_at=())
    base = on_text(replace(BEST, training=training), options)
    recipes = {names: replace(changed(names, base), name=f"probe-{names}") for names in options.changes}

    def study(names: str) -> None:
        folder = options.out / f"{names}-seed{options.seed}"
        row = {"change": names, "seed": options.seed, "seconds": options.seconds}
        row |= probe(recipes[names], folder, console, compress=options.compress)
        with (options.out / "probes.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")

    prepare_or_study(options, recipes, study)


if __name__ == "__main__":
    main()
