"""Points side by side on one scale, a row for each name: models held against each other task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from bytegolf.report.charts import ACCENT, INK, MUTED, RULE, STYLE, inline
from bytegolf.report.markup import Html


@dataclass(frozen=True)
class Points:
    """One model's value for each name, with its standard error where that is known; `own` stands out."""

    label: str
    values: Mapping[str, float]
    errors: Mapping[str, float] | None = None
    own: bool = False


def dots(name: str, title: str, names: Sequence[str], series: Sequence[Points], x_label: str) -> Html:
    """An SVG with a row for each of `names`, first on top. `title` is read aloud."""
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x", "axes.spines.bottom": False}):
        figure = Figure(figsize=(760 / 72, (21 * len(names) + 70) / 72), layout="constrained")
        axes = figure.add_subplot()
        for place in range(len(names)):
            axes.axhline(place, color=RULE, linewidth=0.6)
        axes.axvline(0, color=MUTED, linewidth=0.9)
        markers = iter("v^sDPX" * (1 + len(series) // 6))
        for points in series:
            listed = [(points.values[key], row) for row, key in enumerate(names) if key in points.values]
            x, y = [value for value, _ in listed], [row for _, row in listed]
            if points.own:
                bars = [(points.errors or {}).get(names[row], 0.0) for row in y]
                axes.errorbar(
                    x, y, xerr=bars, fmt="o", color=ACCENT, markersize=7, zorder=3, label=points.label
                )
            else:
                shape = next(markers)
                axes.plot(x, y, shape, color=MUTED, markersize=4.5, alpha=0.75, label=points.label)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        axes.tick_params(length=0)
        figure.legend(loc="outside upper center", ncols=len(series), frameon=False, labelcolor=MUTED)
        return inline(figure, name, title)
