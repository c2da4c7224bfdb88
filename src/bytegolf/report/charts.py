"""Curves as inline SVG. Colours are the page's own variables, so that light, dark and print all fit."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bytegolf.report.markup import Html, escape, short

# Drawn in these stand-ins, which the finished SVG turns into variables of the style sheet.
INK, MUTED, RULE, ACCENT, WARM = "#000001", "#000002", "#000003", "#000004", "#000005"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", WARM: "--warm"}

STYLE = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's own typeface
    "svg.hashsalt": "bytegolf",  # the same run gives the same bytes
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "figure.dpi": 72,
    "savefig.transparent": True,
}
#: Named places on an axis beyond which only some are named.
_MOST_PLACES = 12


@dataclass(frozen=True)
class Curve:
    """One line: `x` and `y` of equal length, a colour of this module, and how it is drawn."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str = ACCENT
    width: float = 1.6
    opacity: float = 1.0
    marked: bool = False


@dataclass(frozen=True)
class Mark:
    """A moment: a dotted upright line with a letter, explained beside the chart."""

    x: float
    letter: str


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Exponential moving average over about `span` values to either side, so that it does not lag behind."""
    decay = 1 - 1 / max(span, 1)
    totals, weights = [0.0] * len(values), [-1.0] * len(values)
    for order in (range(len(values)), range(len(values) - 1, -1, -1)):
        total, weight = 0.0, 0.0
        for i in order:
            total, weight = decay * total + values[i], decay * weight + 1
            totals[i] += total
            weights[i] += weight
    # Each value was counted in both directions at its own place.
    return [(total - value) / weight for total, value, weight in zip(totals, values, weights, strict=True)]


def thin(x: Sequence[float], y: Sequence[float], most: int = 800) -> tuple[list[float], list[float]]:
    """Evenly chosen points, the last one always among them, so that a long run keeps a small page."""
    step = max(1, -(-len(x) // most))
    chosen = list(range(len(x) - 1, -1, -step))[::-1]
    return [x[i] for i in chosen], [y[i] for i in chosen]


def chart(
    name: str,
    title: str,
    curves: Sequence[Curve],
    *,
    size: tuple[int, int],
    x_label: str,
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
    places: Sequence[str] = (),
    settled_from: float = 0.1,
) -> Html:
    """An SVG of `size` CSS pixels. `name` keeps its ids apart from other charts', `title` is read aloud.

    Before the share `settled_from` of the way, where losses fall from great heights, a curve may be cut off
    at the top. `places`: names of x = 0, 1, 2, … where these are no times.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve)
        _frame(axes, curves, from_zero, settled_from)
        if places:
            shown = range(0, len(places), -(-len(places) // _MOST_PLACES))
            axes.set_xticks(shown, [places[place] for place in shown])
            axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xlabel(x_label)
        for mark in marks:
            axes.axvline(mark.x, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)))
            place = axes.get_xaxis_transform()
            axes.text(mark.x, 1.0, mark.letter, transform=place, color=MUTED, ha="center", va="bottom")
        return inline(figure, name, title)


def _draw(axes: Axes, curve: Curve) -> None:
    style = {"color": curve.colour, "linewidth": curve.width, "alpha": curve.opacity}
    if curve.marked:
        axes.plot(curve.x, curve.y, marker="o", markersize=4, **style)
    else:
        axes.plot(curve.x, curve.y, **style)


def _frame(axes: Axes, curves: Sequence[Curve], from_zero: bool, settled_from: float) -> None:
    end = max((x for curve in curves for x in curve.x), default=1.0)
    points = [(x, y) for curve in curves for x, y in zip(curve.x, curve.y, strict=True)]
    settled = [y for x, y in points if x >= settled_from * end]
    low, high = (min(settled), max(settled)) if settled else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    axes.set_ylim(0 if from_zero else low - pad, high + pad)
    axes.set_xlim(0, 1.01 * end or 1.0)  # room for the last marker
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    plain = FuncFormatter(lambda value, _: short(value) if abs(value) >= 1000 else f"{value:.6g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.tick_params(length=3)


def inline(figure: Figure, name: str, title: str) -> Html:
    """The drawing as part of a page: no prologue, own ids, the page's colours and typeface."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"| transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return Html(re.sub(r"\n\s*", "\n", svg).strip())
