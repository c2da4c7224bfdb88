"""The plan of a recipe in the terminal."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytegolf.model.loop import Loop
from bytegolf.show.network import LayerPlan, NetworkPlan
from bytegolf.show.picture import text_picture


def print_plan(console: Console, plan: NetworkPlan) -> None:
    """Picture, layers, parameters and bytes by role, memory and work."""
    recipe = plan.recipe
    console.print(
        f"[bold]{recipe.name}[/]  {plan.parameters:,} parameters, {recipe.model.vocabulary:,} ids "
        f"({plan.tokenizer})\n",
        highlight=False,
    )
    for line in text_picture(plan):
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(_layers(plan.layers), highlight=False)
    console.print()
    console.print(_roles(plan), highlight=False)
    console.print()
    for name, line in [*_artifact_lines(plan), *_work_lines(plan)]:
        console.print(Text(f"{name:18}{line}"), soft_wrap=True)


def _layers(layers: tuple[LayerPlan, ...]) -> Table:
    table = _table("layer", "mixer", "mlp", "matrices")
    table.add_column("parameters", justify="right")

    def content(layer: LayerPlan) -> tuple[object, ...]:
        return (layer.mixer, layer.mlp, layer.matrices, layer.joining)

    for _, group in groupby((layer for layer in layers if not layer.turn), key=content):
        alike = list(group)
        first, last = alike[0], alike[-1]
        numbers = str(first.layer) if first is last else f"{first.layer}–{last.layer}"
        numbers += "" if first.joining == "in turn" else f" {first.joining}"
        shapes = "\n".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in first.matrices)
        each = f"{first.parameters:,}" + ("" if first is last else " each")
        table.add_row(numbers, first.mixer, first.mlp, shapes, each)
    return table


def _roles(plan: NetworkPlan) -> Table:
    table = _table("role")
    for name in ("parameters", "grid", "bits/weight", "artifact bytes"):
        table.add_column(name, justify="right")
    quantized = {role.role: role for role in plan.artifact.roles}
    for role, count in plan.roles.items():
        if role in quantized:
            row = quantized[role]
            grid, bits, size = row.grid.describe(), f"{row.bits_per_weight:.2f}", f"{row.bytes:,}"
        else:
            grid, bits, size = "float16", "", "in other"
        table.add_row(role, f"{count:,}", grid, bits, size)
    return table


def _artifact_lines(plan: NetworkPlan) -> Iterator[tuple[str, str]]:
    artifact = plan.artifact
    total = artifact.total_bytes
    yield (
        "artifact",
        f"about {total:,} bytes: {artifact.tokenizer_bytes:,} tokenizer, {artifact.other_bytes:,} other "
        "(header, scalars)",
    )
    if artifact.budget_bytes is None:
        return
    if total > artifact.budget_bytes:
        yield "byte budget", f"{artifact.budget_bytes:,}: missed by about {total - artifact.budget_bytes:,}"
    elif artifact.least_bytes is None:
        yield "byte budget", f"{artifact.budget_bytes:,}: met"
    else:
        yield (
            "byte budget",
            f"{artifact.budget_bytes:,}: met; shown is the finest grid for all that fits, each role gets "
            f"its own after training (coarsest: {artifact.least_bytes:,})",
        )


def _work_lines(plan: NetworkPlan) -> Iterator[tuple[str, str]]:
    recipe = plan.recipe
    parts = ", ".join(f"{size_of(size)} {name}" for name, size in plan.memory.items())
    note = "" if plan.device == "cpu" else " (compiled code keeps fewer activations)"
    yield "training memory", f"about {size_of(sum(plan.memory.values()))} on {plan.device}: {parts}{note}"
    yield (
        "work a token",
        f"{plan.flops_forward / 1e6:,.1f} MFLOP forward, {plan.flops_training / 1e6:,.1f} MFLOP in training, "
        f"at length {recipe.training.length}",
    )
    if recipe.model.loop is not None:
        yield "loop", _loop_line(recipe.model.loop)
    tokens = recipe.training.tokens_per_step
    rows, length, longer = recipe.training.rows, recipe.training.length, recipe.training.longer_rows
    later = ""
    if longer is not None:
        joined = f"{rows // longer.times} of {recipe.training.context}"
        later = f", from {longer.start:.0%} of the budget on {joined}"
    yield "tokens a step", f"{tokens:,} ({rows} rows of {length}{later})"
    limits = [
        f"{value:,} {name}" for name, value in vars(recipe.training.budget).items() if value is not None
    ]
    steps = "" if plan.steps is None else f": {plan.steps:,} steps, {plan.steps * tokens:,} tokens"
    yield "budget", f"{' or '.join(limits)}{steps or '; add --tokens-per-second to see how many steps'}"


def _loop_line(loop: Loop) -> str:
    """When the layers of a loop run how often, and what stands between passes."""
    layers = f"layer {loop.first}" if loop.first == loop.last else f"layers {loop.first} to {loop.last}"
    begin = f" from {100 * loop.start:g} % of the budget on, once before" if loop.start else ""
    more = f"; {loop.scored_passes} times when scored" if loop.extra_passes else ""
    injection = "; between passes Parcae" if loop.injection is not None else ""
    return f"{layers} run {loop.passes} times{begin}{more}{injection}"


def size_of(count: int) -> str:
    """Bytes in decimal units."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB"


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in names:
        table.add_column(name)
    return table
