"""The sections below the curves, each from plain data; empty where a run has nothing to show yet."""

from collections.abc import Mapping
from typing import Any

from bytegolf.report.certificate import hint
from bytegolf.report.headline import date, headline_score
from bytegolf.report.heat import documents, legend
from bytegolf.report.markup import Html, count, decimals, escape, join, pairs, percent, table, tag
from bytegolf.report.recipe_tree import tree
from bytegolf.report.run_folder import Run, find, number, rows

_COLOURS = 8


def byte_account(run: Run) -> Html:
    """Every byte of the artifact by part: a bar on the scale of the budget, and the table behind it."""
    artifact = find(run.result, "artifact")
    parts = [(str(row.get("part", "")), number(row, "bytes") or 0) for row in rows(artifact, "account")]
    total = sum(size for _, size in parts)
    if not total:
        return Html("")
    budget = number(artifact, "budget_bytes")
    scale = max(total, budget or 0)
    ranked = enumerate(sorted(parts, key=lambda part: -part[1]))
    order = [(name, size, f"c{min(rank, _COLOURS - 1)}") for rank, (name, size) in ranked]
    segments = [
        tag(
            "span",
            class_=colour,
            style=f"width:{100 * size / scale:.3f}%",
            title=f"{name}: {count(size)} bytes",
        )
        for name, size, colour in order
    ]
    if budget and budget > total:
        segments.append(
            tag("span", class_="free", style="flex:1", title=f"free: {count(budget - total)} bytes")
        )
    body = [
        (join([tag("i", class_=f"swatch {colour}"), name]), count(size), percent(size / total))
        for name, size, colour in order
    ]
    body.append((tag("b", "Artifact file"), tag("b", count(total)), percent(1.0)))
    made = table(("Part", "Bytes", "Share"), body, (1, 2), "Every byte of the artifact by part")
    return join([tag("div", *segments, class_="stack", aria_hidden="true"), _sizes(artifact), made])


def _sizes(artifact: Any) -> Html:
    size, budget = number(artifact, "bytes"), number(artifact, "budget_bytes")
    items = [("File on disk", f"{count(size)} bytes")]
    if budget and size is not None:
        left = budget - size
        items.append(
            ("Budget", f"{count(budget)} bytes, {count(abs(left))} {'free' if left >= 0 else 'over'}")
        )
    for name, field in (("Source", "source_bytes"), ("Challenge size", "challenge_bytes")):
        value = number(artifact, field)
        if value is not None:
            items.append((name, f"{count(value)} bytes"))
    digest = find(artifact, "sha256")
    if digest:
        items.append(("SHA-256", tag("code", str(digest))))
    return pairs(items)


def quantization(run: Run) -> Html:
    plan = rows(run.result, "plan")
    if not plan:
        return Html("")
    body = []
    for row in plan:
        bits = number(row, "bits")
        cells = (
            Html("")
            if bits is None
            else tag("span", "■" * min(int(bits), 32), class_="bits", aria_hidden="true")
        )
        width = "–" if bits is None else join([f"{bits:g} ", cells])
        body.append((str(row.get("role", "")), width, _clip(row.get("clip")), count(number(row, "bytes"))))
    return table(
        ("Role", "Bits", "Clip", "Bytes"), body, (3,), "Bits and clip rule by role of the parameters"
    )


def _clip(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "–" if value is None else str(value)
    settings = [
        f"{len(item)} {key}" if isinstance(item, list) else f"{key} {item}"
        for key, item in value.items()
        if key != "type"
    ]
    return f"{value.get('type', '')} {', '.join(settings)}".strip()


def comparison(run: Run) -> Html:
    """The artifact beside the classic compressors, in bits per byte of the same held-out text."""
    score = headline_score(run.result)
    own, size = number(score, "bits_per_byte"), number(score, "bytes")
    baselines = rows(run.result, "baselines")
    if own is None or not baselines:
        return Html("")
    lines: list[tuple[str, float, float | None, bool]] = [
        (
            f"bytegolf, {score.get('model', 'model') if score else ''}",
            own,
            own * size / 8 if size else None,
            True,
        )
    ]
    absent = []
    for row in baselines:
        bits, name = number(row, "bits_per_byte"), str(row.get("name", ""))
        if bits is None:
            absent.append(name)
        else:
            lines.append((name, bits, number(row, "bytes"), False))
    longest = max(bits for _, bits, _, _ in lines) or 1.0
    items = [_bar(*line, share=line[1] / longest) for line in sorted(lines, key=lambda line: line[1])]
    note = "Bytes of the coded text. Neither the model's file nor a compressor's dictionary is counted."
    read = [8 * (number(r, "bytes") or 0.0) / (number(r, "bits_per_byte") or 1.0) for r in baselines]
    if size and max(read) < 0.99 * size:
        note += f" The compressors were given the first {count(max(read))} of {count(size)} bytes."
    if absent:
        note += f" Not measured: {', '.join(absent)}."
    return join([tag("ul", *items, class_="bars"), tag("p", note, class_="note")])


def _bar(name: str, bits: float, size: float | None, own: bool, *, share: float) -> Html:
    bar = tag("span", class_="bar", style=f"width:{100 * share:.2f}%")
    value = join([tag("b", decimals(bits, 3)), f" {count(size)} bytes" if size is not None else ""])
    return tag(
        "li",
        tag("span", name, class_="name"),
        tag("span", value, class_="amount"),
        tag("span", bar, class_="track", aria_hidden="true"),
        class_="own" if own else None,
    )


def scores(run: Run) -> Html:
    found = rows(run.result, "scores")
    if not found:
        return Html("")
    body = [
        (
            str(row.get("model", "")),
            str(row.get("plan", "")),
            decimals(number(row, "bits_per_byte"), 4),
            decimals(number(row, "nats_per_token"), 4),
            count(number(row, "tokens")),
            count(number(row, "bytes")),
            decimals(number(row, "seconds"), 1),
        )
        for row in found
    ]
    headings = ("Model", "Scoring", "Bits per byte", "Nats per token", "Tokens", "Bytes", "Seconds")
    made = table(headings, body, range(2, 7), "Scores on held-out text")
    return join([made, *(tag("p", text, class_="note") for text in _costs(found)), hint(run)])


def _costs(found: list[Mapping[str, Any]]) -> list[str]:
    """What compression cost: artifact against float model, for each plan that both were scored by."""
    by_plan: dict[str, dict[str, float]] = {}
    for row in found:
        bits = number(row, "bits_per_byte")
        if bits is not None:
            by_plan.setdefault(str(row.get("plan", "")), {})[str(row.get("model", ""))] = bits
    both = [(plan, models) for plan, models in by_plan.items() if {"float", "artifact"} <= set(models)]
    return [
        f"Compression cost {decimals(models['artifact'] - models['float'], 4)} bits per byte ({plan})."
        for plan, models in both
    ]


def data(run: Run) -> Html:
    found = find(run.result, "data")
    if not isinstance(found, Mapping):
        return Html("")
    body = [
        (name, *(count(number(found, f"{split}_{field}")) for field in ("documents", "bytes", "tokens")))
        for name, split in (("Training", "training"), ("Held out", "validation"))
    ]
    tokenizer = [
        ("Tokenizer", str(found.get("tokenizer", "–"))),
        ("Vocabulary", count(number(found, "vocabulary"))),
    ]
    made = table(("Split", "Documents", "Bytes", "Tokens"), body, (1, 2, 3), "Text by split")
    return join([made, pairs(tokenizer)])


def held_out_text(run: Run) -> Html:
    made = documents(run.coloured)
    return join([legend(), *made]) if made else Html("")


def samples(run: Run) -> Html:
    made = [
        tag(
            "figure",
            tag("blockquote", tag("b", str(row.get("prompt", ""))), str(row.get("text", "")), translate="no"),
            class_="sample",
        )
        for row in rows(run.result, "samples")
    ]
    return join(made)


def environment(run: Run) -> Html:
    if not isinstance(run.environment, Mapping):
        return Html("")
    items, packages = [], Html("")
    for key, value in run.environment.items():
        if key == "packages" and isinstance(value, Mapping):
            listed = pairs((str(name), str(version)) for name, version in sorted(value.items()))
            packages = tag("details", tag("summary", f"{len(value)} packages"), listed)
        elif isinstance(value, Mapping | list):
            items.append((_words(key), tree(value) if value else escape("–")))
        else:
            text = "–" if value is None else date(value) if key == "date" else str(value)
            items.append((_words(key), tag("code", text) if key.endswith("sha256") else text))
    return join([pairs(items), packages])


def recipe(run: Run) -> Html:
    return tree(run.recipe) if isinstance(run.recipe, Mapping) and run.recipe else Html("")


def _words(key: str) -> str:
    return key.replace("_", " ")
