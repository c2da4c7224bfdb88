"""What one finished training tells without another: clips of a grid, bits of the table, longer rows.

    python benchmarks/after_training.py RUN [--bits 6] [--out RECORD.json]

RUN is a run folder with its checkpoint. Matrices are rounded to nearest, all with the same bits and one clip
after another; then the embedding alone is stored in several ways while the rest has 8 bits; then rows of 11/8
of the training's length (the challenge's 1,408 for 1,024) are scored as they are and with rotary positions
rescaled for them. Scores are chunked.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from studies import held_out, on_attention

from bytegolf.artifact.loading import load
from bytegolf.compression.floats import Float16
from bytegolf.compression.grid import AbsMax, BestQuantile, Clip, Grid, LeastSquares, Quantile
from bytegolf.compression.spec import Compression, FixedBits, RoleGrid
from bytegolf.compression.storage import Storage
from bytegolf.evaluation.bits import score
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.roles import Role
from bytegolf.model.rotary import NtkAware
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.report.run_folder import read_run
from bytegolf.runner import Trained, trained_run, write_json
from bytegolf.running.environment import describe_environment
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.training.ranks import Ranks
from bytegolf.tree import from_json, to_json

Row = dict[str, Any]

CLIPS: tuple[Clip, ...] = (
    AbsMax(),
    Quantile(),
    BestQuantile(best_of="matrix"),
    BestQuantile(best_of="row"),
    LeastSquares(),
)


class Finished:
    """A training, and its held-out text."""

    def __init__(self, trained: Trained, ranks: Ranks, display: Display) -> None:
        self.trained, self.ranks, self.display = trained, ranks, display
        self.length = trained.recipe.training.length
        self.ids, self.starts = held_out(trained.prepared)

    def bits_per_byte(self, model: LanguageModel, length: int) -> float:
        """The model's score in chunks of so many tokens."""
        return score(
            model, self.trained.prepared.tokenizer, self.ids, self.starts, Chunked(length)
        ).bits_per_byte

    def stored(self, name: str, plan: FixedBits) -> Row:
        """Bytes and score of a file by this plan, and nothing but rounding to nearest."""
        trained = self.trained
        least = trained.recipe.compression.passthrough_elements
        recipe = replace(trained.recipe, compression=Compression(plan, passthrough_elements=least))
        with tempfile.TemporaryDirectory() as folder:
            exported = export(trained.model, recipe, trained.prepared, None, trained.training, Path(folder))
            loaded = load(exported.path, device=self.ranks.device)
            found = self.bits_per_byte(loaded.model, self.length)
        size = exported.account.total_bytes
        self.display.say(f"{found:.5f} bits/byte, {size:,} bytes  {name}")
        return {"bytes": size, "bits_per_byte": found}


def clips(finished: Finished, bits: int) -> Iterator[Row]:
    """One row for each clip; the embedding keeps 8 bits."""
    table = (RoleGrid(Role.EMBEDDING, Grid(8)),)
    for clip in CLIPS:
        plan = FixedBits(Grid(bits, clip), exceptions=table)
        yield {"clip": to_json(clip)} | finished.stored(f"all {bits} bits, {clip}", plan)


def tables(finished: Finished, bits: int) -> Iterator[Row]:
    """One row for each way to store the embedding; the rest has grids of 8 bits."""
    ways: tuple[Storage, ...] = (Float16(), Grid(8), Grid(8, AbsMax()), Grid(bits), Grid(bits, AbsMax()))
    for way in ways:
        plan = FixedBits(Grid(8), exceptions=(RoleGrid(Role.EMBEDDING, way),))
        yield {"embedding": to_json(way)} | finished.stored(f"the embedding {way}", plan)


def rows_of(finished: Finished) -> Iterator[Row]:
    """Scores in rows of the training's length and of 11/8 of it, the latter with the base rescaled too."""
    longer = finished.length * 11 // 8
    model = finished.trained.model
    recipe = on_attention(lambda i, n, mixer: replace(mixer, rotary_scaling=NtkAware(finished.length)))(
        finished.trained.recipe
    )
    rescaled = replace(recipe.model, vocabulary=model.spec.vocabulary).build().to(finished.ranks.device)
    rescaled.load_state_dict(model.state_dict())
    rescaled.compute_dtype = model.compute_dtype
    for name, which, length in (
        ("plain", model, finished.length),
        ("plain", model, longer),
        ("NTK-aware", rescaled, longer),
    ):
        found = finished.bits_per_byte(which, length)
        finished.display.say(f"{found:.5f} bits/byte  rows of {length}, {name}")
        yield {"rotary": name, "length": length, "bits_per_byte": found}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("after_training.json"))
    options = parser.parse_args(words)
    ranks, display = Ranks.start("auto"), Display(Console(width=120))
    with display.line():
        recipe = from_json(Recipe, read_run(options.run).recipe)
        finished = Finished(trained_run(options.run, recipe, ranks, display), ranks, display)
        found = {
            "machine": describe_environment(),
            "recipe": finished.trained.recipe.name,
            "training": finished.trained.training,
            "float": finished.bits_per_byte(finished.trained.model, finished.length),
            "clips": list(clips(finished, options.bits)),
            "tables": list(tables(finished, options.bits)),
            "rows": list(rows_of(finished)),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, found)


if __name__ == "__main__":
    main()
