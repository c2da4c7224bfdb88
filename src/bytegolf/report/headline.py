"""The top of the page: what ran, its score, and the score in words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bytegolf.report.markup import Html, count, decimals, duration, escape, join, percent, short, tag
from bytegolf.report.run_folder import Run, find, number, rows


def headline_score(result: Any) -> Mapping[str, Any] | None:
    """The artifact's score under the recipe's first plan; the float model's where it was not scored."""
    scored = [row for row in rows(result, "scores") if number(row, "bits_per_byte") is not None]
    artifact = [row for row in scored if row.get("model") == "artifact"]
    return next(iter(artifact or scored), None)


def title(run: Run) -> str:
    return str(find(run.result, "recipe") or find(run.recipe, "name") or run.name)


def masthead(run: Run) -> Html:
    parameters = number(run.result, "training", "parameters")
    facts = [
        f"{short(parameters)} parameters" if parameters else "",
        date(find(run.result, "date") or find(run.environment, "date")),
        _fact("seed {}", find(run.result, "seed")),
        _machine(run.environment),
        _fact("torch {}", find(run.environment, "torch")),
    ]
    return tag(
        "header",
        tag("p", "bytegolf run report", class_="eyebrow"),
        tag("h1", title(run)),
        tag("p", " · ".join(fact for fact in facts if fact), class_="facts"),
    )


def figures(run: Run) -> Html:
    """The four headline figures, each with a line of small print."""
    training = find(run.result, "training")
    if training is None:
        latest = run.events("train")[-1:]
        training = latest[0] if latest else None
    speed = number(training, "tokens_per_second")
    tokens = _figure(
        short(number(training, "tokens")), "training tokens", f"{short(speed)} a second" if speed else ""
    )
    return tag("div", _score(run), _artifact(run), _time(training), tokens, class_="figures")


def summary(run: Run) -> Html:
    """The score as a sentence: what the text would take, beside the best classic compressor."""
    score = headline_score(run.result)
    bits, size = number(score, "bits_per_byte"), number(score, "bytes")
    if bits is None or not size:
        return tag(
            "p", "This run has no result yet; the page shows what its folder holds so far.", class_="summary"
        )
    coded = bits * size / 8
    sentence = f"At this score {count(size)} bytes of unseen text come to {count(coded)} bytes"
    # In bits per byte, because of a long text the compressors were given only a part.
    others = [row for row in rows(run.result, "baselines") if number(row, "bits_per_byte")]
    if others:
        other = min(others, key=lambda row: number(row, "bits_per_byte") or 0.0)
        ratio = bits / (number(other, "bits_per_byte") or 1.0)
        compared = "less" if ratio <= 1 else "more"
        best = f"the best classic compressor tried ({other.get('name', '')})"
        sentence += f", {percent(abs(1 - ratio))} {compared} than with {best}"
    return tag("p", sentence + ".", class_="summary")


def _score(run: Run) -> Html:
    score = headline_score(run.result)
    if score is not None:
        small = f"held-out text, {score.get('plan', '')}, {score.get('model', '')}"
        return _figure(decimals(number(score, "bits_per_byte"), 4), "bits per byte", small, lead=True)
    for kind, small in (("validation", "latest validation"), ("train", "latest training batch")):
        _, values = run.points(kind, "step", "bits_per_byte")
        if values:
            return _figure(decimals(values[-1], 4), "bits per byte", small, lead=True)
    return _figure("–", "bits per byte", "nothing measured yet", lead=True)


def _artifact(run: Run) -> Html:
    size = number(run.result, "artifact", "bytes")
    budget = number(run.result, "artifact", "budget_bytes")
    if size is None or not budget:
        return _figure(count(size), "artifact bytes", "not written yet" if size is None else "no byte budget")
    over = size > budget
    small = f"{percent(size / budget)} of {count(budget)}" + (", over budget" if over else "")
    width = f"width:{min(100.0, 100 * size / budget):.2f}%"
    filled = tag("span", class_="over" if over else None, style=width)
    meter = tag("span", filled, class_="meter", aria_hidden="true")
    return _figure(count(size), "artifact bytes", join([small, meter]))


def _time(training: Any) -> Html:
    seconds = duration(number(training, "seconds"))
    steps, step = number(training, "steps"), number(training, "step")
    if steps is None:
        return _figure(seconds, "training so far", "" if step is None else f"step {count(step)}")
    first = number(training, "first_step_seconds")
    late = "" if first is None else f", the first after {duration(first)}"
    return _figure(seconds, "training", f"{count(steps)} steps{late}")


def _figure(value: str, unit: str, small: str, lead: bool = False) -> Html:
    return tag(
        "div",
        tag("p", value, class_="value"),
        tag("p", unit, class_="unit"),
        tag("p", escape(small), class_="small"),
        class_="lead" if lead else None,
    )


def date(value: Any) -> str:
    """An ISO date as people write it; any other text as it is."""
    if not isinstance(value, str):
        return ""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def _machine(environment: Any) -> str:
    gpu, cpu = find(environment, "gpu"), find(environment, "cpu")
    if gpu:
        return ", ".join(map(str, gpu)) if isinstance(gpu, list) else str(gpu)
    cores = number(environment, "cores")
    return " × ".join(text for text in (count(cores) if cores else "", str(cpu or "CPU cores")) if text)


def _fact(pattern: str, value: Any) -> str:
    return "" if value is None else pattern.format(value)
