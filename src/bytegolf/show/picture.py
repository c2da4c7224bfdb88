"""The network as a drawing: layers from the input down, U-Net skips as arcs beside them."""

import io
from collections.abc import Sequence
from pathlib import Path

from bytegolf.errors import RecipeError
from bytegolf.files import atomic_write
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.spec import Model
from bytegolf.show.network import LayerPlan, NetworkPlan

FORMATS = (".svg", ".png", ".pdf")
_JOINED = {"in turn": "→", "parallel": "∥", "two lanes": "⇉"}
_CAPS = {"tanh": "soft cap", "polynomial": "polynomial cap"}


def text_picture(plan: NetworkPlan) -> list[str]:
    """One line for each time a layer runs. An arc goes from an output to where it is added again."""
    model = plan.recipe.model
    arcs = arc_columns(plan.layers)
    labels = [f"{layer.layer:>3}  {_label(layer)}" for layer in plan.layers]
    width = max(len(label) for label in labels)
    lines = [f"     {_inlet(model)}"]
    lines += [f"{label:{width}}  {arcs[i]}".rstrip() for i, label in enumerate(labels)]
    cap = "" if model.soft_cap is None else f", {_CAPS[model.cap_form]} {model.soft_cap:g}"
    return [*lines, f"     head: the embedding again{', biased' * model.embedding.bias}{cap}"]


def arc_columns(layers: Sequence[LayerPlan]) -> list[str]:
    """For each layer the pieces of all arcs that pass it. Each arc has a column, short arcs first."""
    arcs = sorted(
        ((layer.index, layer.skip_to) for layer in layers if layer.skip_to is not None),
        key=lambda arc: arc[1] - arc[0],
    )
    rows = [[" "] * (3 * len(arcs)) for _ in layers]
    for number, (first, last) in enumerate(arcs):
        column = 3 * number + 2
        for index in range(first + 1, last):
            rows[index][column] = "│"
        for index, corner in ((first, "╮"), (last, "╯")):
            # The line from the layer to its column crosses the inner arcs that pass here.
            for place in range(column):
                rows[index][place] = "┼" if rows[index][place] == "│" else "─"
            rows[index][column] = corner
    return ["".join(row).rstrip() for row in rows]


def check_format(path: Path) -> None:
    """Raises `RecipeError` unless `draw_svg` can write such a file."""
    if path.suffix not in FORMATS:
        raise RecipeError(f"a picture cannot be written as {path.name!r}; end it in {' or '.join(FORMATS)}")


def draw_svg(plan: NetworkPlan, path: Path) -> None:
    """The same drawing as a picture file; see `check_format`. Needs no display."""
    check_format(path)
    # Figure without pyplot: no window system is looked for, and nothing stays open.
    from matplotlib.figure import Figure
    from matplotlib.patches import Arc, FancyBboxPatch

    count = len(plan.layers)
    figure = Figure(figsize=(7.5, 0.52 * (count + 2) + 0.3))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    reach = max(
        (layer.skip_to - layer.index for layer in plan.layers if layer.skip_to is not None), default=0
    )
    axes.set_xlim(-0.3, 10.6 + 0.5 * reach)
    axes.set_ylim(count + 0.6, -1.6)
    model = plan.recipe.model
    heaviest = max(layer.parameters for layer in plan.layers)
    boxes = [(-1, _inlet(model), 0.15)]
    boxes += [
        (
            layer.index,
            f"{layer.layer}   {_label(layer)}",
            layer.parameters / heaviest,
        )
        for layer in plan.layers
    ]
    boxes.append((count, "head: the embedding again", 0.15))
    for place, label, weight in boxes:
        shade = (0.93 - 0.2 * weight, 0.95 - 0.12 * weight, 1.0)
        box = FancyBboxPatch(
            (0.2, place - 0.32), 9.6, 0.64, boxstyle="round,pad=0.05", facecolor=shade, edgecolor="#456"
        )
        axes.add_patch(box)
        axes.text(5.0, place, label, ha="center", va="center", fontsize=8.5)
        if place < count:
            axes.plot([5.0, 5.0], [place + 0.37, place + 0.63], color="#456", linewidth=1.0)
    for layer in plan.layers:
        if layer.skip_to is not None:
            height = layer.skip_to - layer.index
            middle = (layer.index + layer.skip_to) / 2
            arc = Arc(
                (9.85, middle), 0.95 * height, height, theta1=-90, theta2=90, color="#c60", linewidth=1.3
            )
            axes.add_patch(arc)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip("."))
    atomic_write(path, buffer.getvalue())


def _inlet(model: Model) -> str:
    """What makes the input of the first layer, and of values."""
    embedding = model.embedding
    if isinstance(embedding, FactoredEmbedding):
        parts = [f"embedding {model.vocabulary:,} × {embedding.inner} × {model.width}"]
    else:
        parts = [f"embedding {model.vocabulary:,} × {model.width}"]
    if model.bigram is not None:
        parts.append(f"{type(model.bigram).__name__} {model.bigram.buckets:,} × {model.bigram.width}")
    if model.smear is not None:
        parts.append(type(model.smear).__name__)
    if model.value_embedding is not None:
        parts.append(f"shared values {model.vocabulary:,} × {model.value_embedding.width}")
    return " + ".join(parts)


def _label(layer: LayerPlan) -> str:
    again = f", pass {layer.turn + 1}" if layer.turn else ""
    return f"{_short(layer.mixer)} {_JOINED[layer.joining]} {_short(layer.mlp)}{again}"


def _short(description: str) -> str:
    """A component's name and its first setting or two, without the rest."""
    name, _, settings = description.partition(" (")
    return f"{name} {', '.join(settings.rstrip(')').split(', ')[:2])}"
