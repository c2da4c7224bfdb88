"""Writes the tables of README.md, benchmarks/README.md and the notebook from the run records, or checks them.

python benchmarks/tables.py [--check]
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import ablations
import friction
import frontier
import quantization
from ladder import LADDER

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a table is out of date")
    check = parser.parse_args().check
    for path, name, table in (
        (ROOT / "benchmarks" / "README.md", "runs", runs_table()),
        (ROOT / "benchmarks" / "README.md", "ladder", ladder_table()),
        (ROOT / "benchmarks" / "README.md", "quantization", quantization_table()),
        (ROOT / "benchmarks" / "README.md", "roundings", roundings_table()),
        (ROOT / "benchmarks" / "README.md", "ablations", ablations_table()),
        (ROOT / "benchmarks" / "README.md", "frontier", frontier_table("frontier")),
        (ROOT / "benchmarks" / "README.md", "frontier-h100", frontier_table("frontier-h100")),
        (ROOT / "benchmarks" / "README.md", "friction", friction_table()),
        (ROOT / "benchmarks" / "README.md", "compressors", compressors_table("pocket-gptq-cpu")),
        (ROOT / "README.md", "compressors", compressors_table("pocket-gptq-cpu")),
    ):
        old = path.read_text(encoding="utf-8")
        new = replaced(old, name, table)
        if check and new != old:
            raise SystemExit(
                f"{path.relative_to(ROOT)}: table {name!r} is out of date; run benchmarks/tables.py"
            )
        path.write_text(new, encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    """The result.json of one recorded run."""
    return json.loads((RESULTS / name / "result.json").read_text(encoding="utf-8"))


def runs_table() -> str:
    """One row for each recorded run and scoring plan."""
    rows = [
        "| record | machine | date | seed | training | tokens/s | file bytes | challenge size | scored | "
        "float | artifact |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*/result.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        machine, training, artifact = run["machine"], run["training"], run["artifact"]
        hardware = machine["gpu"] or f"{machine['cores']} cores, {machine['cpu']}"
        floats = {row["plan"]: row["bits_per_byte"] for row in run["scores"] if row["model"] == "float"}
        for row in run["scores"]:
            if row["model"] != "artifact":
                continue
            plain = floats.get(row["plan"])
            cells = (
                f"[{path.parent.name}](results/{path.parent.name})",
                f"{hardware}, torch {machine['torch']}",
                run["date"][:10],
                str(run["seed"]),
                f"{training['seconds']:.0f} s, {training['tokens']:,} tokens",
                f"{training['tokens_per_second']:,.0f}",
                f"{artifact['bytes']:,}",
                f"{artifact['challenge_bytes']:,}",
                row["plan"],
                "" if plain is None else f"{plain:.4f}",
                f"**{row['bits_per_byte']:.4f}**",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def ladder_table() -> str:
    """One row for each rung, with the figures of every seed."""
    rows = [
        "| rung | weights | tokens | tokens/s | file bytes | chunked 1024, float | chunked 1024 | "
        "sliding 64 of 1024 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in LADDER:
        folders = sorted((RESULTS / "ladder").glob(f"{name}-seed*"))
        runs = [record(f"ladder/{folder.name}") for folder in folders]
        cells = (
            f"[{name}](results/ladder/{name}-seed1)",
            f"{runs[0]['training']['parameters']:,}",
            f"{mean(run['training']['tokens'] for run in runs):,.0f}",
            f"{mean(run['training']['tokens_per_second'] for run in runs):,.0f}",
            " ".join(f"{run['artifact']['bytes']:,}" for run in runs),
            " ".join(f"{_score(run, 'float', 'chunked'):.4f}" for run in runs),
            " ".join(f"**{_score(run, 'artifact', 'chunked'):.4f}**" for run in runs),
            " ".join(f"**{_score(run, 'artifact', 'sliding'):.4f}**" for run in runs),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def quantization_table() -> str:
    """One row for each way to store each trained network."""
    rows = [
        "| network | training saw | stored | float | file | cost | file bytes | "
        "strays by, first … last layer | growth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in quantization.collected(RESULTS / "quantization"):
        *before, file, cost, size, strays, growth = quantization.cells(row)
        cells = (*before, f"**{file}**", cost, size, strays, growth)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def roundings_table() -> str:
    """One row for each way to round `pocket`'s weights, held against GPTQ alone on the same grid and seed."""
    paths = sorted((RESULTS / "after-training").glob("pocket-roundings-seed*.json"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    found = [{(row["bits"], row["rounding"]): row for row in run["roundings"]} for run in runs]
    rows = [
        "| bits | rounding | file | against GPTQ | file bytes | against GPTQ |",
        "|---|---|---|---|---|---|",
    ]
    for bits, name in found[0]:
        own = [seed[bits, name] for seed in found]
        pairs = [(row, seed[bits, "GPTQ"]) for row, seed in zip(own, found, strict=True)]
        cells = (
            str(bits),
            name,
            " ".join(f"{row['bits_per_byte']:.4f}" for row in own),
            " ".join(f"**{row['bits_per_byte'] - plain['bits_per_byte']:+.4f}**" for row, plain in pairs),
            " ".join(f"{row['bytes']:,}" for row in own),
            f"{mean(row['bytes'] - plain['bytes'] for row, plain in pairs):+,.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def ablations_table() -> str:
    """One row for each technique of the early lineage, what gains most first."""
    found = ablations.collected(RESULTS / "ablations")
    return differences("ablations", ablations, sorted(found, key=lambda row: row["difference"]))


def frontier_table(folder: str) -> str:
    """One row for each technique that has records in a folder of one kind of machine."""
    return differences(folder, frontier, frontier.collected(RESULTS / folder))


def friction_table() -> str:
    """One row for each mixer that has records."""
    return differences("friction", friction, friction.collected(RESULTS / "friction"))


def differences(folder: str, study: ModuleType, found: Iterable[dict[str, Any]]) -> str:
    """A study's changes with links to their records, and in the third column what each does to the score."""
    rows = []
    for row in found:
        change, second, difference, *others = study.cells(row)
        linked = f"[{change}](results/{folder}/{change}-seed{row['seeds'][0]})"
        rows.append(f"| {' | '.join((linked, second, f'**{difference}**', *others))} |")
    headings = [f"| {' | '.join(study.HEADINGS)} |", "|---" * len(study.HEADINGS) + "|"]
    return "\n".join(headings + rows) if rows else "No records yet."


def _score(run: dict[str, Any], model: str, plan: str) -> float:
    return next(
        row["bits_per_byte"]
        for row in run["scores"]
        if row["model"] == model and row["plan"].startswith(plan)
    )


def compressors_table(name: str) -> str:
    """The artifact beside classic compressors on the same held-out bytes."""
    run = record(name)
    best = min(
        (row for row in run["scores"] if row["model"] == "artifact"), key=lambda row: row["bits_per_byte"]
    )
    rows = ["| | bits per byte |", "|---|---|"]
    name = f"bytegolf, {run['recipe']}, {run['artifact']['bytes']:,} bytes"
    rows.append(f"| **{name}** | **{best['bits_per_byte']:.3f}** |")
    for row in sorted(run["baselines"], key=lambda row: row["bits_per_byte"]):
        rows.append(f"| {row['name']} | {row['bits_per_byte']:.3f} |")
    return "\n".join(rows)


def replaced(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of `name` replaced by `table`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"


if __name__ == "__main__":
    main()
