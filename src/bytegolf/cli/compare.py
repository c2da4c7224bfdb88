"""`bytegolf compare`: seeds of one way to train, or of two against each other. Imports no torch."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bytegolf.cli.arguments import read_command
from bytegolf.cli.comparison import print_side, print_verdict
from bytegolf.cli.options import Compare
from bytegolf.errors import RecipeError
from bytegolf.evaluation.significance import Comparison, Sample
from bytegolf.evaluation.significance import compare as welch_test
from bytegolf.files import write_json
from bytegolf.report.seeds import Side, read_side, refuse_incomparable, shared_plan


def compare(words: Sequence[str]) -> int:
    """`bytegolf compare RUN … --against RUN …`"""
    options: Compare = read_command("compare", Compare, words)
    if not math.isfinite(options.margin) or options.margin < 0:
        raise RecipeError(f"--margin is {options.margin}; give nats per token, 0 or more")
    sides = {"runs": read_side(options.runs)}
    if options.against:
        sides["against"] = read_side(options.against)
    refuse_incomparable(list(sides.values()))
    plan = shared_plan(list(sides.values()), options.plan)
    result = None
    if options.against:
        scores = [side.nats_per_token(plan) for side in sides.values()]
        result = welch_test(scores[0], scores[1], options.margin)
    console = Console()
    console.print(f"artifacts, {plan}\n", markup=False, highlight=False)
    for title, side in sides.items():
        print_side(console, title, side, plan)
        console.print()
    if result is not None:
        print_verdict(console, result)
    if options.json:
        write_json(Path(options.json), plain(plan, sides, result))
    return 0


def plain(plan: str, sides: dict[str, Side], result: Comparison | None) -> dict[str, Any]:
    """What --json writes."""
    data: dict[str, Any] = {"plan": plan, **next(iter(sides.values())).seeds[0].digests}
    for title, side in sides.items():
        runs = [
            {
                "folder": str(seed.folder),
                "recipe": seed.recipe,
                "seed": seed.seed,
                "bits_per_byte": seed.scores[plan][0],
                "nats_per_token": seed.scores[plan][1],
                "artifact_bytes": seed.artifact_bytes,
            }
            for seed in side.seeds
        ]
        data[title] = {
            "runs": runs,
            "bits_per_byte": _moments(side.bits_per_byte(plan)),
            "nats_per_token": _moments(side.nats_per_token(plan)),
            "notes": list(side.notes),
        }
    if result is not None:
        welch = None if result.welch is None else dict(vars(result.welch))
        data["difference"] = result.difference
        data |= {"margin": result.margin, "welch": welch, "verdict": result.verdict}
    return data


def _moments(values: Sequence[float]) -> dict[str, float | None]:
    sample = Sample(tuple(values))
    return {"mean": sample.mean, "standard_deviation": sample.deviation}
