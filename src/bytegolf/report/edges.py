"""What friction left of the edges: by layer, by distance, and over training.

The share of edges that are cut, edges per query and the share of empty tiles are three measures, each with a
chart of its own: far from every cut edge lies in a tile that can be skipped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bytegolf.report.charts import ACCENT, MUTED, WARM, Curve, chart
from bytegolf.report.markup import Html, count, decimals, join, pairs, percent, table, tag
from bytegolf.report.run_folder import Run, find, finite, number, rows

_SIZE = (400, 220)
#: Queries × keys, the colour of their line, and the class of its key.
_TILES = (("64x64", WARM, "warm"), ("128x64", ACCENT, "accent"), ("128x128", MUTED, "muted"))
_FAR = 32
_PERCENT = "\N{NARROW NO-BREAK SPACE}%"


def edges(run: Run) -> Html:
    """The newest measurement, and how it came about; empty for a run whose attention cuts no edges."""
    # A run that was resumed at its end measured its last step again.
    by_step = {number(event, "step"): event for event in run.events("edges") if rows(event, "layers")}
    measured = list(by_step.values())
    if not measured:
        return Html("")
    newest = measured[-1]
    charts = [*_by_layer(newest), *_by_distance(newest), *(_over_training(measured) if measured[1:] else [])]
    return join([_summary(newest), tag("div", *charts, class_="multiples"), _table(newest)])


def _summary(event: Mapping[str, Any]) -> Html:
    overall = find(event, "overall")
    skips = [f"{_shown(find(overall, 'tile_skip', size))} of {_times(size)}" for size, _, _ in _TILES]
    rows_, length = count(number(event, "rows")), count(number(event, "length"))
    return pairs(
        [
            (
                "Edge sparsity",
                f"{_shown(find(overall, 'edge_sparsity'))} of visible edges, "
                f"{_shown(find(overall, 'square_sparsity'))} of all T × T pairs",
            ),
            ("Edges per query", decimals(number(overall, "edges_per_query"), 2)),
            ("Empty tiles", ", ".join(skips)),
            ("Queries that the capacity limits", _shown(find(overall, "capped"))),
            ("Measured at", f"step {count(number(event, 'step'))}, {rows_} rows of {length} held-out tokens"),
        ]
    )


def _by_layer(event: Mapping[str, Any]) -> list[Html]:
    layers = rows(event, "layers")
    names = [count(number(layer, "layer")) for layer in layers]
    sparsity = _heads_and_mean([_heads(layer, "edge_sparsity", scale=100.0) for layer in layers])
    queries = _heads_and_mean([_heads(layer, "edges_per_query") for layer in layers])
    tiles = [
        Curve(
            *_means([_heads(layer, "tile_skip", size, scale=100.0) for layer in layers]), colour, marked=True
        )
        for size, colour, _ in _TILES
    ]
    one = [("each head", "muted"), ("mean", "accent")]
    return [
        _figure("edge-sparsity", "Edge sparsity", "% of visible edges", one, sparsity, "layer", names),
        _figure("edges-per-query", "Edges per query", "", one, queries, "layer", names),
        _figure("tile-skip", "Empty tiles", "% of visible tiles", _tile_keys(), tiles, "layer", names),
    ]


def _by_distance(event: Mapping[str, Any]) -> list[Html]:
    """Edges per query in each class of distances: of every layer, and the mean of all heads."""
    bounds = _numbers(find(event, "distances"))
    layers = [_edges_by_class(layer, len(bounds)) for layer in rows(event, "layers")]
    known = [values for values in layers if values]
    if not known:
        return []
    places = range(len(bounds))
    curves = [Curve(places, values, MUTED, width=0.8, opacity=0.6) for values in known]
    curves.append(
        Curve(places, [sum(column) / len(known) for column in zip(*known, strict=True)], marked=True)
    )
    names = [count(bound) for bound in bounds]
    keys = [("each layer", "muted"), ("mean", "accent")]
    return [
        _figure("edges-by-distance", "Reach", "edges per query", keys, curves, "tokens back, at most", names)
    ]


def _edges_by_class(layer: Mapping[str, Any], classes: int) -> list[float]:
    """Edges per query and head in each class; empty where they are not all known."""
    listed, queries = find(layer, "edges_by_distance"), number(layer, "queries")
    heads = [_numbers(head) for head in listed] if isinstance(listed, list) else []
    if not queries or not classes or not heads or any(len(head) != classes for head in heads):
        return []
    return [sum(column) / (queries * len(heads)) for column in zip(*heads, strict=True)]


def _over_training(events: Sequence[Mapping[str, Any]]) -> list[Html]:
    def curve(*path: str, scale: float, colour: str = ACCENT) -> Curve:
        found = [(number(event, "seconds"), number(event, "overall", *path)) for event in events]
        known = [(x, scale * y) for x, y in found if x is not None and y is not None]
        return Curve([x for x, _ in known], [y for _, y in known], colour, marked=True)

    sparsity, queries = curve("edge_sparsity", scale=100.0), curve("edges_per_query", scale=1.0)
    tiles = [curve("tile_skip", size, scale=100.0, colour=colour) for size, colour, _ in _TILES]
    return [
        _figure("sparsity-curve", "Edge sparsity over training", "% of visible edges", [], [sparsity]),
        _figure("queries-curve", "Edges per query over training", "", [], [queries]),
        _figure("tiles-curve", "Empty tiles over training", "% of visible tiles", _tile_keys(), tiles),
    ]


def _figure(
    identity: str,
    name: str,
    unit: str,
    keys: Sequence[tuple[str, str]],
    curves: Sequence[Curve],
    x_label: str = "seconds",
    places: Sequence[str] = (),
) -> Html:
    title = f"{name}{f' ({unit})' if unit else ''} by {x_label}"
    drawn = chart(identity, title, curves, size=_SIZE, x_label=x_label, places=places, settled_from=0.0)
    labels = [tag("span", unit, class_="key")] if unit else []
    labels += [tag("span", text, class_=f"key {colour}") for text, colour in keys]
    return tag("figure", tag("figcaption", tag("b", name), *labels), drawn, class_="chart")


def _heads_and_mean(layers: Sequence[Sequence[float]]) -> list[Curve]:
    heads = [(place, value) for place, values in enumerate(layers) for value in values]
    dots = Curve(
        [place for place, _ in heads],
        [value for _, value in heads],
        MUTED,
        width=0.0,
        opacity=0.45,
        marked=True,
    )
    return [dots, Curve(*_means(layers), marked=True)]


def _means(layers: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    known = [(float(place), sum(values) / len(values)) for place, values in enumerate(layers) if values]
    return [place for place, _ in known], [value for _, value in known]


def _table(event: Mapping[str, Any]) -> Html:
    shares = ("edge_sparsity", "square_sparsity", "capped")
    body = []
    bounds = _numbers(find(event, "distances"))
    for layer in rows(event, "layers"):
        sparsity, square, capped = (_mean_share(_heads(layer, name)) for name in shares)
        by_class = _edges_by_class(layer, len(bounds))
        far = sum(value for bound, value in zip(bounds, by_class, strict=False) if bound > _FAR)
        body.append(
            (
                count(number(layer, "layer")),
                sparsity,
                square,
                _mean(_heads(layer, "edges_per_query")),
                percent(far / sum(by_class)) if sum(by_class) else "–",
                _mean(_heads(layer, "row_sum")),
                decimals(max(_heads(layer, "largest_row_sum"), default=None), 2),
                capped,
                *(_mean_share(_heads(layer, "tile_skip", size)) for size, _, _ in _TILES),
            )
        )
    headings = ("Layer", "Edges cut", "Of T × T", "Edges per query", f"Beyond {_FAR} tokens")
    headings += ("Row sum", "Largest", "Capped", *(f"{_times(size)} empty" for size, _, _ in _TILES))
    made = table(headings, body, range(len(headings)), "Means over the heads of each layer")
    return tag("details", tag("summary", "Every layer"), made)


def _tile_keys() -> list[tuple[str, str]]:
    return [(_times(size), colour) for size, _, colour in _TILES]


def _times(size: str) -> str:
    return size.replace("x", " × ")


def _heads(layer: Mapping[str, Any], *path: str, scale: float = 1.0) -> list[float]:
    return [scale * value for value in _numbers(find(layer, *path))]


def _numbers(listed: Any) -> list[float]:
    found = map(finite, listed) if isinstance(listed, list) else []
    return [value for value in found if value is not None]


def _mean(values: Sequence[float]) -> str:
    return decimals(sum(values) / len(values) if values else None, 2)


def _mean_share(values: Sequence[float]) -> str:
    return _shown(sum(values) / len(values) if values else None)


def _shown(share: Any) -> str:
    """0.99664 as 99.66 %: of shares close to 1 every digit counts."""
    value = finite(share)
    return "–" if value is None else f"{100.0 * value:.2f}{_PERCENT}"
