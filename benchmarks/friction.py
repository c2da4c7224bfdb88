"""What friction does in place of a softmax, and which part of it matters: variants of one small network.

    python benchmarks/friction.py --list
    python benchmarks/friction.py CASE… --text FILE… --validation FILE --tokenizer FILE \
        [--seconds 120] [--seeds 1 2] [--share 0/4] [--missing] \
        [--out FOLDER] [--prepared FOLDER [--prepare]]
    python benchmarks/friction.py CASE… --toy
    python benchmarks/friction.py --table FOLDER

All are the recipe `friction_small` with another mixer: eight layers of width 512, rows of 1,024 tokens, 64 of
them a step. `softmax` is the recipe `softmax_small`. Seconds are equal, so what computes the attention, and
how fast, is in every score; the tokens stand beside it. Files have 8 bits a weight. Each case is held against
the one that --list names, seed by seed, and is there for the question that stands beside it.

Scores are those of the files, in chunks of 1,024; result.json has the sliding ones too, what edges were like
at the end of training, and what became of the learned numbers of each head. copying.json says how well the
trained model copies by distance, and what it gains from pairs of tokens that stood before
(`bytegolf.evaluation.copying`).

All of a study's runs share the tokens in OUT/data unless --prepared names another folder. --share I/N does
every N-th run, from the I-th on, for N GPUs: friction.sh has each do its share. --toy takes bytes, ten steps
and a network so small that two processor cores try every case in two minutes; its figures say nothing.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frontier import begin, packed_and_scored
from rich.console import Console
from rich.table import Table
from studies import (
    Change,
    Words,
    compared,
    deviation_text,
    held_out,
    on_attention,
    on_text,
    parser,
    preparable,
    prepare_or_study,
    step_milliseconds,
    tabled,
)

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.copying import as_rows, copying, induction
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.files import write_json
from bytegolf.model.attention import AttentionLayer
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.recipes.friction_small import RECIPE as FRICTION_SMALL
from bytegolf.recipes.softmax_small import LAYER as SOFTMAX_LAYER
from bytegolf.runner import Trained, train
from bytegolf.running.edges import newest_edges
from bytegolf.running.progress import Display
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks


@dataclass(frozen=True)
class Case:
    """One mixer, the case that it is held against, and the question it answers."""

    change: Change
    control: str
    question: str


def mixer(**changes: Any) -> Change:
    """Another setting of the attention in all layers."""
    return on_attention(lambda i, n, mixer: replace(mixer, **changes))


def eta_mu(*, capacity: float | None = None, learned: Sequence[str] = (), **changes: Any) -> Change:
    """η μ with settings of its own, of the attention too."""
    friction = Friction("eta_mu", capacity=capacity, **dict.fromkeys(learned, True))
    return mixer(friction=friction, **changes)


def plain(**changes: Any) -> Change:
    """The twin's attention, changed."""
    return on_attention(lambda i, n, mixer: replace(SOFTMAX_LAYER.mixer, **changes))


CASES: dict[str, Case] = {
    "softmax": Case(plain(), "softmax", "the twin: a softmax and rotary positions"),
    "softmax-none": Case(plain(rotary=False), "softmax", "what do positions give a softmax?"),
    "softmax-friction": Case(
        plain(rotary=False, friction=Friction("softmax", capacity=None)),
        "softmax",
        "is it the cost of distance alone, without a zero?",
    ),
    "eta-mu": Case(eta_mu(), "softmax", "does it do without a softmax?"),
    "mu": Case(mixer(friction=Friction("mu", capacity=None)), "eta-mu", "is w = η μ or μ?"),
    "log-domain": Case(
        mixer(friction=Friction("log_domain", capacity=None)),
        "eta-mu",
        "does μ of e^x, which jumps where edges begin, do as well?",
    ),
    "eta-mu-capacity-1": Case(eta_mu(capacity=1.0), "eta-mu", "does a bound on a row help, and which?"),
    "eta-mu-capacity-4": Case(eta_mu(capacity=4.0), "eta-mu", "the same; the recipe friction_small"),
    "eta-mu-capacity-16": Case(eta_mu(capacity=16.0), "eta-mu", "the same"),
    "mu-capacity-4": Case(mixer(friction=Friction("mu", capacity=4.0)), "mu", "the same, with w = μ"),
    "eta-mu-weighted": Case(eta_mu(learned=["head_friction"]), "eta-mu", "does friction want a weight?"),
    "eta-mu-learned": Case(
        eta_mu(learned=["head_bias", "head_friction"]), "eta-mu", "… and scores a bias of each head?"
    ),
    "eta-mu-rotary": Case(eta_mu(rotary=True), "eta-mu", "are rotary positions of use beside friction?"),
    "eta-mu-unnormalized": Case(
        eta_mu(norm_query_key=False, query_gain=3.0), "eta-mu", "are queries and keys to be normalized?"
    ),
}


def base(budget: Budget) -> Recipe:
    """What every case is made of."""
    return replace(
        FRICTION_SMALL,
        training=replace(FRICTION_SMALL.training, budget=budget),
        compression=Compression(FixedBits(Grid(8))),
        evaluation=replace(FRICTION_SMALL.evaluation, plans=(Chunked(1024), Sliding(1024, 256))),
    )


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe of a case on the text of the command line."""
    budget = Budget(seconds=options.seconds) if options.seconds else Budget(steps=10)
    recipe = replace(CASES[name].change(on_text(base(budget), options)), name=f"friction-{name}")
    return toy(recipe, own_tokens=bool(options.tokenizer)) if options.toy else recipe


def toy(recipe: Recipe, *, own_tokens: bool = False) -> Recipe:
    """The same mixer in a network for two processor cores, over bytes, and less held-out text."""
    first = recipe.model.layers[0]
    layer = replace(first, mixer=replace(first.mixer, heads=2, key_value_heads=2), mlp=SquaredMlp(hidden=128))
    return replace(
        recipe,
        text=replace(recipe.text, held_out=0.002),
        tokens=recipe.tokens if own_tokens else Bytes(),
        model=replace(recipe.model, width=64, layers=(layer,) * 2),
        training=replace(recipe.training, rows=8, length=64, forward_rows=8, average=None, validate_at=()),
        evaluation=replace(recipe.evaluation, plans=(Chunked(64), Sliding(64, 32))),
    )


def study(recipe: Recipe, folder: Path, console: Console) -> dict[str, Any]:
    """Trains, compresses, scores and measures one case; what result.json of its folder then holds."""
    ranks, display = Ranks.start("auto"), Display(console)
    begin(folder, recipe)
    with display.line():
        trained = train(recipe, folder, resume=False, ranks=ranks, display=display)
        result = packed_and_scored(trained, folder, ranks, display)
        display.update("copying …")
        write_json(folder / "copying.json", measured_copying(trained))
    if edges := newest_edges(folder):
        result["edges"] = edges
    result["heads"] = learned_numbers(trained.model)
    write_json(folder / "result.json", result)
    return result


def measured_copying(trained: Trained) -> dict[str, Any]:
    """How the trained model copies: repeats in random rows, and pairs that stood before in held-out text.

    64 rows and segments of 32 tokens, where rows have 1,024; fewer of shorter ones.
    """
    length = trained.recipe.training.length
    ids, starts = held_out(trained.prepared)
    segment, rows = min(32, length // 4), max(8, length // 16)
    repeats = copying(trained.model, trained.prepared.tokenizer, length=length, segment=segment, rows=rows)
    return {
        "length": length,
        "segment": segment,
        "rows": rows,
        "repeats": as_rows(repeats),
        "induction": as_rows(induction(trained.model, ids, starts, length=length)),
    }


def learned_numbers(model: LanguageModel) -> list[dict[str, list[float]]]:
    """Of each layer the gain of its heads, and where they are learned, bias and weight of the friction."""
    found = []
    for layer in model.stack.layers:
        assert isinstance(layer.mixer, AttentionLayer)
        friction = layer.mixer.friction
        numbers = {"gain": layer.mixer.gain_H}
        if friction is not None:
            numbers |= {"bias": friction.bias_H, "weight": friction.friction_H}
        found.append({name: value.tolist() for name, value in numbers.items() if value is not None})
    return found


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each case with runs below a folder, in the order of `CASES`: means over its seeds.

    near, far: accuracy on what is repeated at the shortest and the longest distance; pairs: on tokens whose
    preceding pair stood before; cut, skipped: shares of edges and of tiles of 128 × 64, None of a softmax.
    """
    controls = {name: case.control for name, case in CASES.items()}
    for row in compared(folder, controls, held_against="file"):
        folders = [folder / f"{row['change']}-seed{seed}" for seed in row["seeds"]]
        copied = [json.loads((run / "copying.json").read_text(encoding="utf-8")) for run in folders]
        edges = [run["edges"]["overall"] for run in row["runs"] if "edges" in run]
        yield row | {
            "sliding": statistics.mean(run["scores"][-1]["bits_per_byte"] for run in row["runs"]),
            "tokens": statistics.mean(run["training"]["tokens"] for run in row["runs"]),
            "step": statistics.mean(step_milliseconds(run) for run in folders),
            "near": statistics.mean(run["repeats"][0]["again"]["accuracy"] for run in copied),
            "far": statistics.mean(run["repeats"][-1]["again"]["accuracy"] for run in copied),
            "pairs": statistics.mean(run["induction"]["paired"]["accuracy"] for run in copied),
            "cut": _mean(found["edge_sparsity"] for found in edges),
            "skipped": _mean(found["tile_skip"]["128x64"] for found in edges),
        }


HEADINGS = (
    "case",
    "against",
    "difference",
    "spread",
    "noise",
    "file",
    "sliding",
    "float",
    "tokens",
    "step, ms",
    "edges cut, %",
    "tiles empty, %",
    "copied near, %",
    "far, %",
    "after pairs, %",
    "seeds",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's texts under `HEADINGS`."""
    return (
        row["change"],
        row["control"],
        f"{row['difference']:+.4f}",
        deviation_text(row["spread"]),
        deviation_text(row["noise"]),
        *(f"{row[name]:.4f}" for name in ("file", "sliding", "float")),
        f"{row['tokens']:,.0f}",
        f"{row['step']:.2f}",
        *("" if row[name] is None else f"{100 * row[name]:.2f}" for name in ("cut", "skipped")),
        *(f"{100 * row[name]:.1f}" for name in ("near", "far", "pairs")),
        " ".join(map(str, row["seeds"])),
    )


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(box=None)
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.mean(found) if found else None


def share(word: str) -> tuple[int, int]:
    """I/N of the command line: which of how many shares."""
    which, slash, count = word.partition("/")
    if not (slash and which.isdecimal() and count.isdecimal() and int(which) < int(count)):
        raise argparse.ArgumentTypeError(f"{word!r} is no share; give 0/4 to 3/4 for four of them")
    return int(which), int(count)


def recipes_of(options: argparse.Namespace) -> dict[str, Recipe]:
    """The recipes of the command line's share of runs, by the names of their folders."""
    prepared = options.prepared or str(options.out / "data")
    runs = {f"{name}-seed{seed}": (name, seed) for name in options.cases for seed in options.seeds}
    if options.missing:
        runs = {
            label: run for label, run in runs.items() if not (options.out / label / "result.json").exists()
        }
    first, step = options.share
    return {
        label: recipe_of(name, argparse.Namespace(**{**vars(options), "seed": seed, "prepared": prepared}))
        for label, (name, seed) in list(runs.items())[first::step]
    }


def main(words: Words = None) -> None:
    made = preparable(tabled(parser(__doc__, "case", CASES, "friction")))
    made.add_argument("--seconds", type=float, help="of training; 120, or with --toy 10 steps")
    made.add_argument("--seeds", type=int, nargs="+", default=[1])
    made.add_argument("--share", type=share, default=(0, 1), metavar="I/N", help="of the runs")
    made.add_argument("--missing", action="store_true", help="pass over runs that are finished")
    made.add_argument("--toy", action="store_true", help="a network for two processor cores")
    options = made.parse_args(words)
    if options.seconds is None and not options.toy:
        options.seconds = 120.0
    console = Console(width=200)
    if options.list:
        for name, case in CASES.items():
            print(f"{name:20} against {case.control:12} {case.question}")
    if options.table:
        console.print(table(list(collected(options.table))))
    recipes = recipes_of(options)
    prepare_or_study(options, recipes, lambda label: study(recipes[label], options.out / label, console))


if __name__ == "__main__":
    main()
