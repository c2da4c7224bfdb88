"""Curves, colours, and numbers as the page writes them."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.report.charts import Curve, Mark, chart, smooth, thin
from bytegolf.report.curves import training
from bytegolf.report.markup import count, decimals, duration, percent, short
from bytegolf.report.run_folder import Run, read_run

STYLE = files("bytegolf.report").joinpath("style.css").read_text()


def run(metrics: Sequence[Mapping[str, object]]) -> Run:
    return Run(name="run", recipe=None, environment=None, metrics=metrics, result=None, coloured=None)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 20))
@settings(deadline=None, max_examples=100)
def test_smoothing_stays_within_its_values(values: list[float], span: int) -> None:
    low, high = min(values) - 1e-6, max(values) + 1e-6
    assert all(low <= value <= high for value in smooth(values, span))


def test_smoothing_does_not_lag_behind_a_straight_line() -> None:
    line = [float(i) for i in range(201)]
    assert smooth(line, 10)[100] == pytest.approx(100)


def test_smoothing_over_one_value_changes_nothing() -> None:
    assert smooth([3.0, 1.0, 2.0], 1) == [3.0, 1.0, 2.0]


@given(st.integers(0, 5000), st.integers(1, 900))
@settings(deadline=None, max_examples=60)
def test_thinning_keeps_the_last_point_and_the_limit(length: int, most: int) -> None:
    x = list(range(length))
    kept, same = thin(x, x, most)
    assert kept == same
    assert len(kept) <= most
    assert kept[-1:] == x[-1:]


def test_drawings_take_their_colours_and_type_from_the_page() -> None:
    curve = Curve([0.0, 1.0, 2.0], [3.0, 2.0, 1.0], marked=True)
    made = chart("c", 'a "title"', [curve], size=(400, 220), x_label="seconds", marks=[Mark(1.0, "A")])
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", made))
    assert colours <= {"none", "var(--ink)", "var(--muted)", "var(--rule)", "var(--accent)", "var(--warm)"}
    assert "font-family" not in made
    assert "<style" not in made
    assert 'aria-label="a &quot;title&quot;"' in made
    assert "http" not in made


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [0.0, 0.0]])
def test_curves_of_few_or_equal_points_are_drawn(values: list[float]) -> None:
    made = chart("c", "t", [Curve(values, values)], size=(400, 220), x_label="seconds")
    assert made.startswith("<svg")


def test_a_run_of_one_step_and_of_many_are_drawn() -> None:
    for steps in (1, 5000):
        events = [
            {"event": "train", "step": i, "seconds": i / 10, "loss": 3.0, "bits_per_byte": 2.0}
            for i in range(steps)
        ]
        made = training(run(events))
        assert made.count("<svg") == 3
        assert len(made) < 200_000


def test_values_that_are_no_numbers_leave_gaps() -> None:
    events = [
        {"event": "train", "step": i, "seconds": i, "bits_per_byte": value}
        for i, value in enumerate([2.0, float("nan"), None, "x", float("inf"), 1.0])
    ]
    assert run(events).points("train", "seconds", "bits_per_byte") == ([0, 5], [2.0, 1.0])


def test_steps_that_a_resumption_went_back_over_count_once(run_folder: Path) -> None:
    lines = [f'{{"event":"train","step":{step},"seconds":{step}}}' for step in (1, 2, 3, 4)]
    lines += ['{"event":"resume","step":2,"seconds":2.5}', '{"event":"train","step":3,"seconds":9}']
    (run_folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    events = read_run(run_folder).events("train")
    assert [(event["step"], event["seconds"]) for event in events] == [(1, 1), (2, 2), (3, 9)]


def test_numbers_are_written_for_people() -> None:
    space = "\u202f"
    assert [count(1234567), count(None), decimals(-0.00412, 4)] == ["1,234,567", "–", "−0.0041"]
    assert [short(3_276_800), short(13653), short(999)] == [f"3.28{space}M", f"13.7{space}k", "999"]
    assert [percent(0.803), percent(0.0001), percent(0.0)] == [
        f"80.3{space}%",
        f"< 0.1{space}%",
        f"0.0{space}%",
    ]
    wanted = [(8.44, "8.4 s"), (59.97, "1 min"), (252, "4 min 12 s"), (3780, "1 h 03 min"), (None, "–")]
    assert [duration(seconds).replace(space, " ") for seconds, _ in wanted] == [text for _, text in wanted]


def themes() -> list[dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[:2]
    light, dark = (dict(re.findall(r"--([\w]+): ([^;]+);", block)) for block in blocks)
    return [light, {**light, **dark}]


def rgb(colour: str) -> list[float]:
    if colour.startswith("#"):
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return [float(part) for part in colour.split(",")]


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio of two sRGB colours, WCAG 2.1."""

    def luminance(colour: list[float]) -> float:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_text_is_legible_on_its_ground(theme: dict[str, str]) -> None:
    paper = rgb(theme["paper"])
    for name in ("ink", "muted", "accent", "warm"):
        assert contrast(rgb(theme[name]), paper) >= 4.5, name
    for strength in (float(value) for value in re.findall(r"rgba\(var\(--heat\), ([.\d]+)\)", STYLE)):
        mixed = [strength * h + (1 - strength) * p for h, p in zip(rgb(theme["heat"]), paper, strict=True)]
        assert contrast(rgb(theme["ink"]), mixed) >= 4.5, strength


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_bars_stand_out_from_the_page(theme: dict[str, str]) -> None:
    for index in range(8):
        # WCAG asks 3:1 of graphics that carry meaning alone; every part is also named in the table.
        assert contrast(rgb(theme[f"c{index}"]), rgb(theme["paper"])) >= 2.7, index
