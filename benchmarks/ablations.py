"""What each technique of the early lineage does alone: one change of a small network, on the same tokens.

    python benchmarks/ablations.py --list
    python benchmarks/ablations.py CHANGE… --text FILE… --validation FILE --tokenizer FILE \
        --tokens 32000000 [--seed N] [--out FOLDER] [--prepared FOLDER]
    python benchmarks/ablations.py --table FOLDER

Nine layers of width 384, 65,536 tokens a step; every run of one seed sees the same tokens in the same order,
and all files have 8 bits. Tokens, not seconds, are equal: what a technique costs in time is not in the score.
The table holds each change against `none` of the same seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from studies import (
    NINE_LAYERS,
    WIDTH,
    Change,
    Words,
    compared,
    deviation_text,
    each,
    on_attention,
    on_layers,
    on_matrices,
    on_model,
    on_text,
    on_training,
    parser,
    small_recipe,
    with_tokens,
)

from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.model.bigram import BigramSum, BigramXor
from bytegolf.model.embedding import FactoredEmbedding, TiedEmbedding
from bytegolf.model.mlp import SwiGlu
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.value_embedding import ValueEmbedding
from bytegolf.recipe import Recipe
from bytegolf.runner import run
from bytegolf.training.averaging import StochasticAverage

#: One change each; `none` is what they are held against.
CHANGES: dict[str, Change] = {
    "none": lambda recipe: recipe,
    "bigram-sum": on_model(bigram=BigramSum(buckets=4096, width=128)),
    "bigram-xor": on_model(bigram=BigramXor(buckets=2048, width=128)),
    "smear-mix": on_model(smear=SmearMix()),
    "smear-gate": on_model(smear=SmearGate()),
    "value-embedding": on_attention(
        lambda i, n, mixer: replace(mixer, shared_values=i >= n - 2),
        value_embedding=ValueEmbedding(width=128),
    ),
    "factored-embedding": on_model(embedding=FactoredEmbedding(inner=WIDTH // 3)),
    "spectral-embedding": on_model(embedding=TiedEmbedding(spectrum=0.5)),
    "exclusive-last": on_attention(lambda i, n, mixer: replace(mixer, exclusive=i >= n - 4)),
    "exclusive-all": on_attention(lambda i, n, mixer: replace(mixer, exclusive=True)),
    "differential": on_attention(lambda i, n, mixer: replace(mixer, differential=0.5)),
    "partial-rotary": on_attention(lambda i, n, mixer: replace(mixer, rotary_dimensions=16)),
    "scaled-norms": on_model(scaled_norms=True),
    "gated-skips": on_model(skips="gated"),
    "no-skips": on_model(skips=False),
    "phase-mix": on_model(residual_mix="phase"),
    "orthogonal": on_model(initialization="orthogonal"),
    "leaky-square": on_layers(lambda i, n, layer: replace(layer, mlp=replace(layer.mlp, slope=0.5))),
    "swiglu": on_layers(lambda i, n, layer: replace(layer, mlp=SwiGlu(hidden=4 * WIDTH // 3))),
    "polynomial-cap": on_model(cap_form="polynomial"),
    "z-loss": on_training(z_loss=1e-4),
    "equal-rows": on_matrices(equalize_rows=True),
    "neo-muon": on_matrices(equalize_rows=True, steps=3),
    "decay": on_matrices(weight_decay=0.04),
    "no-average": on_training(average=None),
    "snapshots": on_training(average=StochasticAverage(every=20, below=0.2)),
}


def base(tokens: int) -> Recipe:
    """What every change is made to."""
    return small_recipe("ablation", NINE_LAYERS, Compression(FixedBits(Grid(8))), tokens)


def changed(name: str, recipe: Recipe) -> Recipe:
    """The recipe with one change."""
    return replace(CHANGES[name](recipe), name=f"ablation-{name}")


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each change with the runs below a folder: means over seeds, and differences to `none`."""
    return compared(folder, dict.fromkeys(CHANGES, "none"))


HEADINGS = "change", "float", "difference", "spread", "file", "weights", "seeds"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of `collected` for people, under `HEADINGS`."""
    return (
        row["change"],
        f"{row['float']:.4f}",
        f"{row['difference']:+.4f}",
        deviation_text(row["spread"]),
        f"{row['file']:.4f}",
        f"{row['runs'][0]['training']['parameters']:,}",
        str(len(row["seeds"])),
    )


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people, best first."""
    shown = Table(box=None)
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "change" else "right")
    for row in sorted(rows, key=lambda row: row["difference"]):
        shown.add_row(*cells(row))
    return shown


def main(words: Words = None) -> None:
    options = with_tokens(parser(__doc__, "change", CHANGES, "ablations"), 32_000_000).parse_args(words)
    console = Console(width=120)
    if options.list:
        console.print("\n".join(CHANGES))
    if options.table:
        console.print(table(list(collected(options.table))))

    def study(name: str) -> None:
        recipe = on_text(changed(name, base(options.tokens)), options)
        run(recipe, options.out / f"{name}-seed{options.seed}", console=console)

    each(options.changes, study)


if __name__ == "__main__":
    main()
