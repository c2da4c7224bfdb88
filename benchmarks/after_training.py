"""What one finished training tells without another: clips, roundings, bits of the table, longer rows.

    python benchmarks/after_training.py RUN [--parts clips roundings tables rows] [--bits 6] \
        [--out RECORD.json]

RUN is a run folder with its checkpoint. Scores are chunked. Its parts:

clips: matrices rounded to nearest, all with the same bits, one clip after another.
roundings: grids of 5 bits, 12.85 deviations wide (#2143 of the 16 MB challenge), and of 4 bits and 8.5, which
are coarse enough for the ways of rounding to differ; the embedding has 8 bits.
tables: the embedding stored in several ways, while the rest has 8 bits.
rows: of 11/8 of the training's length (the challenge's 1,408 for 1,024), as they are and with rotary
positions rescaled for them.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frontier import GRIDS, PUBLISHED_CORRECTION
from quantization import plan_of
from rich.console import Console
from studies import held_out, on_attention

from bytegolf.artifact.loading import load
from bytegolf.compression.floats import Float16
from bytegolf.compression.gptq import Gptq
from bytegolf.compression.grid import (
    AbsMax,
    BestQuantile,
    Clip,
    Grid,
    LeastSquares,
    Quantile,
)
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FixedBits, RoleGrid
from bytegolf.compression.storage import Storage
from bytegolf.evaluation.bits import score
from bytegolf.evaluation.windows import Chunked
from bytegolf.files import write_json
from bytegolf.model.roles import Role
from bytegolf.model.rotary import NtkAware
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.report.run_folder import read_run
from bytegolf.runner import Trained, trained_run
from bytegolf.running.environment import describe_environment
from bytegolf.running.export import export
from bytegolf.running.progress import Display
from bytegolf.training.ranks import Ranks
from bytegolf.tree import from_json, to_json

Row = dict[str, Any]


@dataclass(frozen=True)
class Rounding:
    """How matrices come to lie on their grid."""

    gptq: Gptq | None = Gptq()
    rotated: bool = False
    correction: LowRankCorrection | None = None


ROUNDINGS: dict[str, Rounding] = {
    "to nearest": Rounding(None),
    "GPTQ": Rounding(),
    "GPTQ, columns in their order": Rounding(Gptq(act_order=False)),
    "GPTQ, more damping": Rounding(Gptq(damping=0.05)),
    "GPTQ, clips by importance": Rounding(Gptq(importance=0.175)),
    "GPTQ, on text of its own": Rounding(Gptq(calibration="generated")),
    "GPTQ, rotated": Rounding(rotated=True),
    "GPTQ, three corrected": Rounding(correction=PUBLISHED_CORRECTION),
    "GPTQ, all corrected": Rounding(correction=replace(PUBLISHED_CORRECTION, matrices=1000)),
    "GPTQ, rotated, three corrected": Rounding(rotated=True, correction=PUBLISHED_CORRECTION),
}

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

    def stored(self, name: str, plan: FixedBits, **settings: Any) -> Row:
        """Bytes and score of a file by this plan; without further settings, of rounding to nearest."""
        trained = self.trained
        least = trained.recipe.compression.passthrough_elements
        compression = Compression(plan, passthrough_elements=least, **settings)
        recipe = replace(trained.recipe, compression=compression)
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


def roundings(finished: Finished) -> Iterator[Row]:
    """One row for each way to round to each grid."""
    for bits, clip in GRIDS.items():
        for name, rounding in ROUNDINGS.items():
            plan = plan_of(Grid(bits, clip, rotated=rounding.rotated))
            row = finished.stored(
                f"{bits} bits, {name}", plan, gptq=rounding.gptq, correction=rounding.correction
            )
            yield {"bits": bits, "rounding": name} | row


def tables(finished: Finished, bits: int) -> Iterator[Row]:
    """One row for each way to store the embedding; the rest has grids of 8 bits."""
    fewer = dict.fromkeys((7, bits))
    grids = [grid for b in (8, *fewer) for grid in (Grid(b), Grid(b, AbsMax()))]
    ways: tuple[Storage, ...] = (Float16(), *grids)
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


PARTS: dict[str, Callable[[Finished, int], Iterator[Row]]] = {
    "clips": clips,
    "roundings": lambda finished, bits: roundings(finished),
    "tables": tables,
    "rows": lambda finished, bits: rows_of(finished),
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
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
        } | {part: list(PARTS[part](finished, options.bits)) for part in options.parts}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, found)


if __name__ == "__main__":
    main()
