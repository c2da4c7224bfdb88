"""How training went: bits per byte, loss, throughput, learning rate and gradient norm over time."""

from string import ascii_uppercase

from bytegolf.report.charts import ACCENT, MUTED, WARM, Curve, Mark, chart, smooth, thin
from bytegolf.report.markup import Html, count, decimals, duration, join, table, tag
from bytegolf.report.run_folder import Run, number

_WIDE, _NARROW, _SMALL = (860, 320), (380, 260), (400, 220)


def training(run: Run) -> Html:
    """All curves that the run recorded; empty before the first step."""
    marks, legend = _moments(run)
    main = _bits_per_byte(run)
    if not main:
        return Html("")
    title = "Bits per byte over training time, for training batches and for held-out text"
    versions = [
        tag("div", chart(f"bpb-{kind}", title, main, size=size, x_label="seconds", marks=marks), class_=kind)
        for kind, size in (("wide", _WIDE), ("narrow", _NARROW))
    ]
    keys = [tag("span", "training batches, smoothed", class_="key accent")]
    if run.events("validation"):
        keys.append(tag("span", "held-out text", class_="key warm"))
    caption = tag("figcaption", tag("b", "Bits per byte"), *keys, legend)
    return join(
        [tag("figure", caption, *versions, class_="chart"), _small_charts(run, marks), _validation_table(run)]
    )


def _bits_per_byte(run: Run) -> list[Curve]:
    curves = _smoothed(run, "bits_per_byte")
    x, y = run.points("validation", "seconds", "bits_per_byte")
    if x:
        curves.append(Curve(x, y, WARM, marked=True))
    return curves


def _smoothed(run: Run, field: str) -> list[Curve]:
    """A faint line of every value under a strong one of their moving average."""
    x, y = run.points("train", "seconds", field)
    if not x:
        return []
    faint = Curve(*thin(x, y), MUTED, width=0.8, opacity=0.45)
    return [faint, Curve(*thin(x, smooth(y, max(1, len(y) // 50))), ACCENT)]


def _small_charts(run: Run, marks: list[Mark]) -> Html:
    wanted = (
        ("loss", "Loss", "nats per token", False),
        ("tokens_per_second", "Throughput", "tokens per second", True),
        ("learning_rate", "Learning rate", "share of its peak", True),
        ("gradient_norm", "Gradient norm", "before clipping", True),
    )
    made = []
    for field, name, unit, from_zero in wanted:
        curves = _smoothed(run, field)
        if curves:
            if field == "learning_rate":
                curves = [Curve(*thin(*run.points("train", "seconds", field)))]
            label = f"{name} ({unit}) over training time"
            drawn = chart(
                field.replace("_", "-"),
                label,
                curves,
                size=_SMALL,
                x_label="seconds",
                marks=marks,
                from_zero=from_zero,
            )
            caption = tag("figcaption", tag("b", name), tag("span", unit, class_="key"))
            made.append(tag("figure", caption, drawn, class_="chart"))
    return tag("div", *made, class_="multiples")


def _moments(run: Run) -> tuple[list[Mark], Html]:
    """Stages and resumptions as lettered marks, with the list that explains the letters."""
    moments = []
    for event in run.metrics:
        seconds = number(event, "seconds")
        if event.get("event") in ("stage", "resume") and seconds is not None:
            name = str(event.get("name", "stage")) if event.get("event") == "stage" else "resumed"
            moments.append((seconds, name))
    lettered = list(zip(ascii_uppercase, moments, strict=False))
    items = [tag("span", tag("b", letter), f" {name}, {duration(at)}") for letter, (at, name) in lettered]
    legend = tag("span", *items, class_="moments") if items else Html("")
    return [Mark(at, letter) for letter, (at, _) in lettered], legend


def _validation_table(run: Run) -> Html:
    events = run.events("validation")
    if not events:
        return Html("")
    body = [
        (
            count(number(event, "step")),
            decimals(number(event, "seconds"), 1),
            count(number(event, "tokens")),
            decimals(number(event, "loss"), 4),
            decimals(number(event, "bits_per_byte"), 4),
        )
        for event in events
    ]
    plural = "" if len(body) == 1 else "s"
    headings = ("Step", "Seconds", "Tokens", "Nats per token", "Bits per byte")
    made = table(headings, body, range(5), "Held-out text during training")
    return tag("details", tag("summary", f"{len(body)} measurement{plural} on held-out text"), made)
