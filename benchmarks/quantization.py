"""What storing weights in few bits costs, with and without training that saw the grid; alone and in loops.

    python benchmarks/quantization.py --list
    python benchmarks/quantization.py CASE… --text FILE… --validation FILE --tokenizer FILE \
        --tokens 40000000 [--seed N] [--out FOLDER] [--prepared FOLDER]
    python benchmarks/quantization.py --table FOLDER

A case is one training. Cases that see no grid are exported to every grid of their network, the others to the
one they saw. All cases of one network get the same tokens in the same order. The table's `float` is the
trained model before any grid, `file` what the artifact scores, both in chunks of 1,024; `strays by` is how
far the residual stream is off behind the first and the last layer that ran (see error_growth.py).

Matrices of blocks go on the grid; the embedding keeps 8 bits, so that a tied head does not decide the
comparison. Each row's scale comes from its largest weight in loops, as published, elsewhere from the least
squared error.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from error_growth import growth
from rich.console import Console
from rich.table import Table
from studies import (
    LAYER,
    NINE_LAYERS,
    Words,
    each,
    float_and_file,
    on_text,
    on_training,
    parser,
    small_recipe,
    with_tokens,
)

from bytegolf.compression.floats import Float16
from bytegolf.compression.grid import AbsMax, Grid
from bytegolf.compression.spec import Compression, FixedBits, Noise, RoleGrid
from bytegolf.compression.storage import Storage
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.files import write_json
from bytegolf.model.loop import Loop
from bytegolf.model.roles import Role
from bytegolf.model.spec import Model
from bytegolf.recipe import Recipe
from bytegolf.runner import finish, run, trained_run
from bytegolf.running.progress import Display
from bytegolf.training.ranks import Ranks

THREE_LAYERS = replace(NINE_LAYERS, layers=(LAYER,) * 3, skips=False)

#: Nine layers; three; and those three run three times.
NETWORKS: dict[str, Model] = {
    "nine": NINE_LAYERS,
    "three": THREE_LAYERS,
    "looped": replace(THREE_LAYERS, loop=Loop(first=0, last=2, passes=3)),
}

STORAGES: dict[str, Storage] = {
    "8": Grid(8),
    "6": Grid(6),
    "5": Grid(5),
    "4": Grid(4),
    "ternary": Ternary(group=128),
    "binary": Binary(group=128),
}
EMBEDDING = Grid(8)
LARGEST: dict[str, Storage] = {str(bits): Grid(bits, AbsMax()) for bits in (8, 6, 5, 4)}


@dataclass(frozen=True)
class Case:
    """One training. sees: nothing, the grid itself (from half of training on), or noise of its step.

    averaged: exports the moving average of weights, as all but one do, or the last weights.
    """

    network: str
    sees: str = ""
    storage: str = ""
    averaged: bool = True

    @property
    def name(self) -> str:
        parts = (self.network, self.sees, self.storage, "" if self.averaged else "last")
        return "-".join(part for part in parts if part)

    @property
    def storages(self) -> dict[str, Storage]:
        """What is exported: the grid that was seen, or all."""
        known = STORAGES if self.network == "nine" else LARGEST
        return {self.storage: known[self.storage]} if self.storage else known

    def compression(self, storage: Storage) -> Compression:
        """Blocks on `storage`, and what training sees of it."""
        spec = Compression(plan_of(storage))
        if self.sees == "rounded":
            return replace(spec, quantization_aware_from=0.5)
        return replace(spec, noise=Noise(looped_only=True)) if self.sees == "noisy" else spec


def plan_of(storage: Storage, embedding: Storage = EMBEDDING) -> FixedBits:
    """Blocks on `storage`, the embedding in 8 bits."""
    return FixedBits(storage, (RoleGrid(Role.EMBEDDING, embedding),))


CASES = {
    case.name: case
    for case in (
        Case("nine"),
        *(Case("nine", "rounded", storage) for storage in STORAGES),
        Case("nine", "rounded", "ternary", averaged=False),
        Case("three"),
        Case("looped"),
        *(Case("looped", sees, storage) for sees in ("rounded", "noisy") for storage in ("8", "6")),
    )
}


def recipe_of(case: Case, storage: Storage, tokens: int) -> Recipe:
    """The case as a recipe that exports to `storage`."""
    model, compression = NETWORKS[case.network], case.compression(storage)
    recipe = small_recipe(f"quantization-{case.name}", model, compression, tokens)
    return recipe if case.averaged else on_training(average=None)(recipe)


def study(case: Case, recipe: Recipe, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Trains once and exports to each grid; a row each, also left in FOLDER/rows.json."""
    rows, result = [], run(recipe, folder, console=console)
    ranks = Ranks.start("auto")
    trained = trained_run(folder, recipe, ranks, Display(None))
    for position, (name, storage) in enumerate(case.storages.items()):
        if position:
            exported = replace(trained.recipe, compression=replace(recipe.compression, plan=plan_of(storage)))
            again = finish(replace(trained, recipe=exported), folder, ranks.device, Display(console))
            result = again | {"training": result["training"]}
        rows.append(_row(case, name, result))
    # The blocks' own errors: what an embedding in 8 bits adds would hide the first layer's.
    plans = {name: plan_of(storage, Float16()).grids() for name, storage in case.storages.items()}
    for row, found in zip(rows, growth(trained, plans).values(), strict=True):
        row["deviations"] = found
    data = {"machine": result["machine"], "rows": rows, "seed": recipe.training.seed}
    write_json(folder / "rows.json", data)
    return rows


def _row(case: Case, storage: str, result: dict[str, Any]) -> dict[str, Any]:
    of_float, of_file = float_and_file(result)
    return {
        "network": case.network,
        "sees": case.sees + ("" if case.averaged else ", last weights"),
        "storage": storage,
        "float": of_float,
        "file": of_file,
        "cost": of_file - of_float,
        "bytes": result["artifact"]["bytes"],
        "parameters": result["training"]["parameters"],
        "tokens": result["training"]["tokens"],
    }


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all cases below a folder, in the order of `CASES`."""
    for name in CASES:
        for path in sorted(folder.glob(f"{name}-seed*/rows.json")):
            data = json.loads(path.read_text(encoding="utf-8"))
            yield from ({**row, "seed": data["seed"]} for row in data["rows"])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(box=None)
    for heading in (
        "network",
        "training saw",
        "stored",
        "float",
        "file",
        "cost",
        "bytes",
        "strays by",
        "growth",
    ):
        shown.add_column(heading, justify="left" if heading in ("network", "training saw") else "right")
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's network, what training saw, how it is stored, its three scores, bytes, and deviations."""
    stored = row["storage"] + (" bits" if row["storage"].isdigit() else "")
    scores = f"{row['float']:.4f}", f"{row['file']:.4f}", f"{row['cost']:+.4f}"
    first, last = row["deviations"][0], row["deviations"][-1]
    strays = f"{first:.2%} … {last:.2%}", f"{last / first:.1f}"
    return row["network"], row["sees"] or "nothing", stored, *scores, f"{row['bytes']:,}", *strays


def main(words: Words = None) -> None:
    options = with_tokens(parser(__doc__, "case", CASES, "quantization"), 40_000_000).parse_args(words)
    console = Console(width=150)
    if options.list:
        console.print("\n".join(CASES))
    if options.table:
        console.print(table(list(collected(options.table))))

    def shown(name: str) -> None:
        case = CASES[name]
        recipe = recipe_of(case, next(iter(case.storages.values())), options.tokens)
        folder = options.out / f"{name}-seed{options.seed}"
        console.print(table(study(case, on_text(recipe, options), folder, console)))

    each(options.cases, shown)


if __name__ == "__main__":
    main()
