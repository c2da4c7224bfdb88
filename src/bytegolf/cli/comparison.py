"""Seeds side by side in the terminal: every run, the mean of each side, and what the test says."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.evaluation.significance import Comparison, Sample, written
from bytegolf.report.seeds import Side


def print_side(console: Console, title: str, side: Side, plan: str) -> None:
    """A row a seed, and their means with the standard deviation of single seeds."""
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    table.add_column(Text(title, "bold"), overflow="fold")
    for name in ("seed", "bits/byte", "nats/token", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for seed in side.seeds:
        bits, nats = seed.scores[plan]
        cells = (f"{bits:.4f}", f"{nats:.4f}", f"{seed.artifact_bytes:,}")
        table.add_row(Text(str(seed.folder)), str(seed.seed), *cells)
    samples = [Sample(tuple(values)) for values in (side.bits_per_byte(plan), side.nats_per_token(plan))]
    size = Sample(tuple(float(seed.artifact_bytes) for seed in side.seeds))
    table.add_row(
        Text("mean", "bold"), str(len(side.seeds)), *(f"{s.mean:.4f}" for s in samples), f"{size.mean:,.0f}"
    )
    if size.deviation is not None:
        deviations = [f"{s.deviation:.4f}" for s in samples]
        table.add_row("standard deviation", "", *deviations, f"{size.deviation:,.0f}")
    console.print(table, highlight=False)
    for note in side.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def print_verdict(console: Console, comparison: Comparison) -> None:
    """The difference, Welch's figures and the sentence that follows from them."""
    console.print(
        f"difference  {comparison.difference:+.4f} nats per token (positive: RUN is better)", highlight=False
    )
    welch = comparison.welch
    if welch is not None:
        lines: Sequence[tuple[str, float, float]] = (
            (f"better by at least {comparison.margin:g}", welch.t, welch.p),
            ("any difference, two-sided", welch.t_plain, welch.p_two_sided),
        )
        table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
        table.add_column("Welch's t-test")
        for name in ("t", "degrees of freedom", "p"):
            table.add_column(name, justify="right")
        for question, t, p in lines:
            table.add_row(
                question, f"{t:.2f}", f"{welch.degrees:.2f}", written(p).removeprefix("p ").removeprefix("= ")
            )
        console.print(table, highlight=False)
    console.print(f"\n[bold]{comparison.verdict}[/]", highlight=False)
