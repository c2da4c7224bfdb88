"""The end of a run in the terminal: scores, bytes, a sample, and where the report is."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_summary(console: Console, result: Mapping[str, Any]) -> None:
    """The table, sample and paths that a run ends with, from what result.json holds."""
    console.print()
    print_scores(console, result["scores"], result["baselines"])
    artifact = result["artifact"]
    limit = artifact["budget_bytes"]
    room = "" if limit is None else f" of {limit:,} allowed"
    for sample in result["samples"][-1:]:
        console.print(f"\n[bold]{_plain(sample['prompt'])}[/]{_plain(sample['text'])}\n", highlight=False)
    lines = {
        "artifact": f"{artifact['path']}  {artifact['bytes']:,} bytes{room}",
        "challenge size": f"{artifact['challenge_bytes']:,} bytes (without tokenizer, with "
        f"{artifact['source_bytes']:,} of source)",
        "report": result["report"],
    }
    for name, line in lines.items():
        console.print(Text(f"{name:15}{line}"), soft_wrap=True)
    if limit is not None and artifact["bytes"] > limit:
        over = artifact["bytes"] - limit
        console.print(f"[bold red]{over:,} bytes over the limit[/]; FitBytes chooses grids that meet it")


def print_scores(
    console: Console, scores: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Scores of models, then of classic compressors on the same bytes."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    table.add_column("how")
    for name in ("bits/byte", "nats/token", "seconds"):
        table.add_column(name, justify="right")
    for row in scores:
        strong = "bold" if row["model"] == "artifact" else ""
        cells = (f"{row['bits_per_byte']:.4f}", f"{row['nats_per_token']:.4f}", f"{row['seconds']:.1f}")
        table.add_row(Text(row["model"], strong), row["plan"], Text(cells[0], strong), *cells[1:])
    console.print(table, highlight=False)
    if not baselines:
        return
    others = Table(box=None, padding=(0, 2), header_style="dim")
    others.add_column("classic compressors, same bytes")
    others.add_column("bits/byte", justify="right")
    for row in baselines:
        bits = row["bits_per_byte"]
        others.add_row(Text(row["name"]), "" if bits is None else f"{bits:.4f}")
    console.print()
    console.print(others, highlight=False)


def _plain(text: str) -> str:
    """Generated text without what a terminal or rich would take as a command."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown.replace("[", "\\[")
