"""The page of a CORE evaluation, from what its core.json holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bytegolf.files import atomic_write
from bytegolf.report.document import document, section
from bytegolf.report.dots import Points, dots
from bytegolf.report.markup import Html, count, decimals, join, pairs, table, tag


def write_core_page(folder: Path) -> Path:
    """Writes core.html beside the folder's core.json and returns its path."""
    path = folder / "core.html"
    result = json.loads((folder / "core.json").read_text(encoding="utf-8"))
    atomic_write(path, core_page(result).encode())
    return path


def core_page(result: Mapping[str, Any]) -> Html:
    """The whole page as markup."""
    settings = result["settings"]
    top = tag(
        "header",
        tag("p", "bytegolf CORE", class_="eyebrow"),
        tag("h1", str(settings["model"])),
        tag("p", _headline(result), class_="facts"),
    )
    parts = [
        section("comparison", "Beside GPT-2", _chart(result)),
        section("tasks", "Task by task", join([_table(result), *_warning(result)])),
        section("settings", "Settings", _settings(settings)),
    ]
    return document(f"{settings['model']} – CORE", top, tag("main", *parts))


def _headline(result: Mapping[str, Any]) -> str:
    most = result["settings"]["max_per_task"]
    asked = "all items" if most is None else f"at most {count(most)} items of each"
    if result["core"] is None:
        return f"{len(result['tasks'])} of 22 tasks, {asked}: no CORE"
    return f"CORE {decimals(result['core'], 4)} ± {decimals(result['error'], 4)} · 22 tasks, {asked}"


def _chart(result: Mapping[str, Any]) -> Html:
    tasks = result["tasks"]
    own = Points(
        str(result["settings"]["model"]),
        {row["label"]: row["centered"] for row in tasks},
        {row["label"]: row["error"] for row in tasks},
        own=True,
    )
    others = [Points(row["model"], row["centered"]) for row in result["published"]]
    title = "Centered accuracy of every task beside published models"
    made = dots(
        "core", title, [row["label"] for row in tasks], [*others, own], "centered accuracy; 0 is guessing"
    )
    return tag("figure", made, class_="chart")


def _table(result: Mapping[str, Any]) -> Html:
    published = result["published"]
    heads = ["Task", "Kind", "Shots", "Items", "Accuracy", "Centered", *(row["model"] for row in published)]
    body = [
        [
            row["label"],
            str(row["kind"]).replace("_", " "),
            count(row["shots"]),
            count(row["items"]),
            decimals(row["accuracy"], 4),
            f"{decimals(row['centered'], 4)} ± {decimals(row['error'], 4)}",
            *(decimals(other["centered"].get(row["label"]), 4) for other in published),
        ]
        for row in result["tasks"]
    ]
    if result["core"] is not None:
        own = f"{decimals(result['core'], 4)} ± {decimals(result['error'], 4)}"
        body.append(["CORE", "", "", "", "", own, *(decimals(row["core"], 4) for row in published)])
    caption = (
        "Centered accuracy, ± one standard error over the draw of items; published models as in the bundle"
    )
    return table(heads, body, range(2, len(heads)), caption)


def _warning(result: Mapping[str, Any]) -> list[Html]:
    text = result["contamination"]
    return [] if text is None else [tag("p", f"{text}.", class_="verdict fail")]


def _settings(settings: Mapping[str, Any]) -> Html:
    shown = {key: value for key, value in settings.items() if key != "tasks"}
    return pairs(
        (key.replace("_", " "), "–" if value is None else str(value)) for key, value in shown.items()
    )
