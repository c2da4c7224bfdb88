"""What each technique of the frontier does alone: one change of a small network, for the same seconds.

    python benchmarks/frontier.py --list
    python benchmarks/frontier.py CHANGE… --text FILE… --validation FILE --tokenizer FILE \
        [--seconds 90] [--seed N] [--out FOLDER] [--prepared FOLDER [--prepare]] \
        [--tokenizer-for CHANGE=FILE…]
    python benchmarks/frontier.py --table FOLDER

The control `none` is the ladder's rung `wider-mlp` without quantization-aware training: nine layers of width
512, 65,536 tokens a step. Seconds are equal, so what a technique costs in time is in its score. Scores are
those of the files, in chunks of 1,024, in bits per byte, which no tokenizer changes. Each change is held
against the control that --list names, seed by seed; the table's `noise` is how far the seeds of that control
itself lie apart.

Files have 8 bits, which cost 0.0002 in the study of quantization. A plan that fits a byte budget would reward
what saves weights, but what it costs moved between 0.001 and 0.006 from rung to rung of the ladder, which is
as much as these techniques give. What they save stands in the column of bytes.

Rotation, correction and further passes of a loop act once training is over. They take what `none` (or `loop`)
of the same seed and folder has learned, which has to be there, and train nothing. The first two are held
against GPTQ. Their grids of 5 bits (as entry #2143 has them) and 4 (the coarsest that a plan chooses) are
coarse enough for the cost to be seen. The clips are standard deviations, which a rotation leaves as they are:
with it and without, every row has the same step. The embedding keeps 8 bits.

Marked capitals need tokenizers of their own: trained from the text unless --tokenizer-for names saved ones,
in prepared folders FOLDER-CHANGE. A fair control has plain pieces trained as theirs are: its own, without
--tokenizer.

frontier.sh runs the whole study, a seed on each GPU. What fails is said, and the others go on.
"""

import argparse
import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ladder import rung
from quantization import plan_of
from rich.console import Console
from rich.table import Table
from studies import (
    Change,
    Words,
    compared,
    deviation_text,
    held_out,
    on_attention,
    on_compression,
    on_layers,
    on_matrices,
    on_model,
    on_text,
    on_training,
    parser,
    preparable,
    prepare_or_study,
    step_milliseconds,
    tabled,
)

from bytegolf.artifact.loading import load
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import Grid, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.errors import CheckpointError, RecipeError
from bytegolf.evaluation.bits import score
from bytegolf.evaluation.windows import Chunked
from bytegolf.files import write_json
from bytegolf.model.attention import Attention
from bytegolf.model.gates import FullGate, Gate, OutGate, SparseGate
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import XieluMlp, published_xielu
from bytegolf.recipe import Recipe
from bytegolf.runner import Trained, train, trained_run
from bytegolf.running.environment import describe_environment
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.tokens.spec import SentencePiece, TokenizerFile
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.schedule import Schedule
from bytegolf.tree import to_json


@dataclass(frozen=True)
class Case:
    """One change, and the case that it is held against.

    trained: the case whose training it takes, where it changes nothing before that is over.
    """

    change: Change
    control: str = "none"
    trained: str | None = None


#: The middle three layers three times, as all published loops have them, of eleven layers.
LOOP = Loop(first=3, last=5, passes=3, start=0.35)
#: As in entry #1728 one in the middle and the last two; the others see an eighth of a row, later a quarter.
GLOBAL_LAYERS = (4, 7, 8)

GRIDS = {5: StandardDeviations(12.85), 4: StandardDeviations(8.5)}
PUBLISHED_CORRECTION = LowRankCorrection(rank=4, matrices=3, largest="norm")
FULL_CORRECTION = LowRankCorrection(rank=4, matrices=1000)

TOKENS = {
    "caseops": SentencePiece(vocabulary=8192, casing=True),
    "caseops-before-space": SentencePiece(vocabulary=8192, casing="before_space"),
}


def windowed(layer: int, layers: int, mixer: Attention, early: int = 128) -> Attention:
    """Windows of `early` tokens in the first half, of 256 in the second, and none in global layers."""
    if layer in GLOBAL_LAYERS:
        return mixer
    return replace(mixer, window=early if layer <= layers // 2 else 256)


def tied_globals(layer: int, layers: int, mixer: Attention) -> Attention:
    """The same windows, and values that are the keys in global layers, as the entries have them."""
    return replace(windowed(layer, layers, mixer), tied_values=layer in GLOBAL_LAYERS)


def gated(gate: Gate) -> Change:
    return on_attention(lambda i, n, mixer: replace(mixer, gate=gate))


def on_tokens(name: str) -> Change:
    """Pieces trained in one of two ways."""
    return lambda recipe: replace(recipe, tokens=TOKENS[name])


def stored(bits: int, control: str, *, rotated: bool = False, **changes: object) -> Case:
    plan = plan_of(Grid(bits, GRIDS[bits], rotated=rotated))
    return Case(on_compression(plan=plan, gptq=Gptq(), **changes), control, trained="none")


def compressions(bits: int) -> dict[str, Case]:
    """Four ways to make a grid lose less than GPTQ alone."""
    control = f"gptq-{bits}"
    return {
        control: stored(bits, "none"),
        f"rotated-{bits}": stored(bits, control, rotated=True),
        f"corrected-{bits}": stored(bits, control, correction=PUBLISHED_CORRECTION),
        f"corrected-all-{bits}": stored(bits, control, correction=FULL_CORRECTION),
        f"rotated-corrected-{bits}": stored(
            bits, f"rotated-{bits}", rotated=True, correction=PUBLISHED_CORRECTION
        ),
    }


CASES: dict[str, Case] = {
    "none": Case(lambda recipe: recipe),
    "loop": Case(on_model(loop=LOOP)),
    "loop-from-start": Case(on_model(loop=replace(LOOP, start=0.0)), "loop"),
    "parcae": Case(on_model(loop=replace(LOOP, injection=Parcae())), "loop"),
    "parcae-truncated": Case(on_model(loop=replace(LOOP, injection=Parcae(truncate=1))), "loop"),
    "more-passes": Case(on_model(loop=replace(LOOP, extra_passes=1)), "loop", trained="loop"),
    "windows": Case(on_attention(windowed)),
    "uniform-windows": Case(on_attention(functools.partial(windowed, early=256)), "windows"),
    "tied-globals": Case(on_attention(tied_globals), "windows"),
    "tied-values": Case(on_attention(lambda i, n, mixer: replace(mixer, tied_values=True))),
    "one-read": Case(on_layers(lambda i, n, layer: replace(layer, parallel=i >= n - 4))),
    "two-lanes": Case(on_model(lanes=Lanes(start=6))),
    "out-gate": Case(gated(OutGate())),
    "full-gate": Case(gated(FullGate())),
    "sparse-gate": Case(gated(SparseGate())),
    "xielu-published": Case(
        on_layers(lambda i, n, layer: replace(layer, mlp=published_xielu(i, layer.mlp.hidden)))
    ),
    "xielu-learned": Case(
        on_layers(lambda i, n, layer: replace(layer, mlp=XieluMlp(layer.mlp.hidden, learned=True)))
    ),
    "gram": Case(on_matrices(gram_above=2.5)),
    "rate-floor": Case(on_training(schedule=Schedule(warmdown=1.0, floor=0.1))),
    "caseops": Case(on_tokens("caseops")),
    "caseops-before-space": Case(on_tokens("caseops-before-space")),
    **compressions(5),
    **compressions(4),
}


def base(seconds: float) -> Recipe:
    """What every change is made to."""
    recipe = rung("wider-mlp")
    return replace(
        recipe,
        training=replace(recipe.training, budget=Budget(seconds=seconds), validate_at=()),
        compression=Compression(FixedBits(Grid(8))),
        evaluation=replace(recipe.evaluation, plans=(Chunked(1024),)),
    )


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """The control on the text of the command line, with one change."""
    plain = on_text(base(options.seconds), options)
    recipe = replace(CASES[name].change(plain), name=f"frontier-{name}")
    saved = dict(options.tokenizer_for)
    if name in saved:
        recipe = replace(recipe, tokens=TokenizerFile(saved[name]))
    if recipe.tokens != plain.tokens and plain.prepared:
        recipe = replace(recipe, prepared=f"{plain.prepared}-{name}")
    return recipe


def study(name: str, recipe: Recipe, out: Path, console: Console) -> dict[str, Any]:
    """One training, or for what acts after it one compression; what result.json of its folder then holds.

    No report is made: the classic compressors in it would keep a GPU waiting for half as long as it trains.
    """
    seed, ranks, display = recipe.training.seed, Ranks.start("auto"), Display(console)
    folder, other = out / f"{name}-seed{seed}", CASES[name].trained
    training = None if other is None else out / f"{other}-seed{seed}"
    if training is not None and not any((training / "checkpoint").glob("step-*.pt")):
        raise CheckpointError(f"{training} holds no training that {name} could take; run {other} first")
    begin(folder, recipe)
    with display.line():
        if training is not None:
            trained = trained_run(training, recipe, ranks, display)
        else:
            trained = train(recipe, folder, resume=False, ranks=ranks, display=display)
        return packed_and_scored(trained, folder, ranks, display)


def begin(folder: Path, recipe: Recipe) -> None:
    """Makes the folder of a run and says there what is run. Raises `RecipeError` if there is one already."""
    if folder.exists():
        raise RecipeError(f"{folder} already holds a run; delete it, or name another folder with --out")
    # What was compiled for the change before neither speeds this one up nor slows it down.
    torch.compiler.reset()
    folder.mkdir(parents=True)
    write_json(folder / "recipe.json", to_json(recipe))
    write_json(folder / "environment.json", describe_environment())


def packed_and_scored(trained: Trained, folder: Path, ranks: Ranks, display: Display) -> dict[str, Any]:
    """Compresses, and scores the model before as the recipe says first, and after in all ways it says."""
    recipe, prepared = trained.recipe, trained.prepared
    display.update("compressing …")
    exported = export(trained.model, recipe, prepared, trained.seen_plan, trained.training, folder)
    display.say(f"packed   {exported.account.total_bytes:,} bytes in {exported.path}")
    loaded = load(exported.path, device=ranks.device)
    trained.model.compute_dtype = loaded.model.compute_dtype
    ids, starts = held_out(prepared)
    scores, plans = [], recipe.evaluation.plans
    passes = [("float", trained.model, plans[0]), *(("artifact", loaded.model, plan) for plan in plans)]
    for kind, model, plan in passes:
        found = score(model, prepared.tokenizer, ids, starts, plan)
        display.say(f"scored   {found.bits_per_byte:.4f} bits/byte  {kind}, {found.plan}")
        row = {"bits_per_byte": found.bits_per_byte, "tokens": found.tokens, "bytes": found.bytes}
        scores.append({"model": kind, "plan": found.plan, **row})
    machine = describe_environment()
    result = {
        "recipe": recipe.name,
        "seed": recipe.training.seed,
        "machine": machine,
        "date": machine["date"],
        "artifact": {"bytes": exported.account.total_bytes, "sha256": exported.sha256},
        "training": trained.training,
        "scores": scores,
        "plan": exported.plan_rows,
        "compression": {"seconds": exported.seconds},
    }
    write_json(folder / "result.json", result)
    return result


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each case with runs below a folder, in the order of `CASES`; sizes and speeds are means."""
    controls = {name: case.control for name, case in CASES.items()}
    for row in compared(folder, controls, held_against="file"):
        runs, name = row["runs"], row["change"]
        row["bytes"] = statistics.mean(run["artifact"]["bytes"] for run in runs)
        if CASES[name].trained is None:
            steps = [step_milliseconds(folder / f"{name}-seed{seed}") for seed in row["seeds"]]
            for figure in ("tokens", "tokens_per_second"):
                row[figure] = statistics.mean(run["training"][figure] for run in runs)
            row["step"] = statistics.mean(steps)
        yield row


HEADINGS = (
    "change",
    "against",
    "difference",
    "spread",
    "noise",
    "file",
    "float",
    "tokens",
    "tokens/s",
    "step, ms",
    "file bytes",
    "seeds",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's texts under `HEADINGS`."""
    speeds = ("tokens", ",.0f"), ("tokens_per_second", ",.0f"), ("step", ".2f")
    return (
        row["change"],
        row["control"],
        f"{row['difference']:+.4f}",
        deviation_text(row["spread"]),
        deviation_text(row["noise"]),
        f"{row['file']:.4f}",
        f"{row['float']:.4f}",
        # What trained nothing has none.
        *(format(row[name], form) if name in row else "" for name, form in speeds),
        f"{row['bytes']:,.0f}",
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


def named_file(word: str) -> tuple[str, str]:
    """CHANGE=FILE of the command line, for a change of tokenizers."""
    name, _, file = word.partition("=")
    if name not in TOKENS or not file:
        raise argparse.ArgumentTypeError(f"{word!r} is not CHANGE=FILE with one of {', '.join(TOKENS)}")
    return name, file


def main(words: Words = None) -> None:
    made = preparable(tabled(parser(__doc__, "change", CASES, "frontier")))
    made.add_argument("--seconds", type=float, default=90.0)
    made.add_argument(
        "--tokenizer-for", nargs="+", type=named_file, default=[], metavar="CHANGE=FILE", help="saved ones"
    )
    options = made.parse_args(words)
    console = Console(width=160)
    if options.list:
        for name, case in CASES.items():
            print(f"{name:24} against {case.control}{', no training' if case.trained else ''}")
    if options.table:
        console.print(table(list(collected(options.table))))
    recipes = {name: recipe_of(name, options) for name in options.changes}
    prepare_or_study(options, recipes, lambda name: study(name, recipes[name], options.out, console))


if __name__ == "__main__":
    main()
