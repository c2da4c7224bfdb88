"""The report of a run: whole, unfinished, hostile."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bytegolf.errors import BytegolfError
from bytegolf.report.page import write_report

VOID = {"meta", "link"}


class Outline(html.parser.HTMLParser):
    """Checks nesting and gathers what a test asks about."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [value for key, value in attrs if key == "id" and value]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(untouched_folder: Path) -> str:
    """The report of the run as it is."""
    return report(untouched_folder)


def replace(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_report_stands_beside_the_run(run_folder: Path) -> None:
    assert write_report(run_folder) == run_folder / "report.html"


def test_a_finished_run_shows_its_figures_and_every_section(page: str) -> None:
    parsed = outline(page)
    text = " ".join(parsed.text)
    for shown in ("1.3821", "802,618", "80.3", "3.28", "2.21", "1,000,000", "197,382 free", "26.5", "seed 7"):
        assert shown in text, shown
    sections = [attributes["id"] for tag, attributes in parsed.tags if tag == "section"]
    expected = "training comparison scores bytes quantization text samples data environment recipe"
    assert " ".join(str(section) for section in sections) == expected


def test_the_same_run_gives_the_same_bytes(run_folder: Path, page: str) -> None:
    assert write_report(run_folder).read_bytes() == page.encode()


def test_the_page_needs_neither_network_nor_script(page: str) -> None:
    assert re.findall(r"https?:|//[a-z]|@import|<script|\son[a-z]+=", page) == []
    parsed = outline(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "iframe", "img", "object", "embed", "form"}
    assert {attributes["href"] for tag, attributes in parsed.tags if tag == "link"} == {"data:,"}
    assert "default-src 'none'" in page


def test_ids_are_unique_and_every_link_and_reference_has_its_target(page: str) -> None:
    parsed = outline(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = set(re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page))
    assert targets
    assert targets <= set(parsed.ids)


def test_headings_never_skip_a_level(page: str) -> None:
    headings = outline(page).headings
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}


def test_every_picture_has_words_for_those_who_do_not_see_it(page: str) -> None:
    pictures = [attributes for tag, attributes in outline(page).tags if tag == "svg"]
    assert len(pictures) == 6
    assert all(picture.get("role") == "img" and picture.get("aria-label") for picture in pictures)


@pytest.mark.parametrize(
    "kept", ["recipe.json", "environment.json", "metrics.jsonl", "result.json", "coloured.json"]
)
def test_any_one_file_makes_a_page(run_folder: Path, kept: str) -> None:
    for path in run_folder.iterdir():
        if path.name != kept:
            path.unlink()
    parsed = outline(report(run_folder))
    assert len([tag for tag, _ in parsed.tags if tag == "section"]) >= 1


def test_an_unfinished_run_says_how_far_it_is(run_folder: Path) -> None:
    (run_folder / "result.json").unlink()
    text = " ".join(outline(report(run_folder)).text)
    assert "no result yet" in text
    assert "step 400" in text
    assert "latest validation" in text


def test_a_line_cut_short_by_a_kill_is_passed_over(run_folder: Path, page: str) -> None:
    path = run_folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event":"train","step":40')
    assert report(run_folder) == page


def test_a_damaged_line_is_named(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    path.write_bytes(b'{"event":\n' + path.read_bytes())
    with pytest.raises(BytegolfError, match=r"metrics\.jsonl' line 1 is not JSON"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_a_damaged_file_is_named(run_folder: Path) -> None:
    (run_folder / "result.json").write_bytes(b"\xff{")
    with pytest.raises(BytegolfError, match=r"result\.json' is not JSON"):
        write_report(run_folder)


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BytegolfError, match="is no run folder"):
        write_report(tmp_path / name)


def test_an_artifact_over_its_budget_is_told(undrawn_folder: Path) -> None:
    artifact = json.loads((undrawn_folder / "result.json").read_text())["artifact"]
    replace(undrawn_folder, "result.json", artifact={**artifact, "budget_bytes": 700_000})
    text = " ".join(outline(report(undrawn_folder)).text)
    assert "over budget" in text
    assert "102,618 over" in text


def test_a_worse_score_than_the_compressors_is_told(undrawn_folder: Path) -> None:
    replace(
        undrawn_folder,
        "result.json",
        scores=[{"model": "artifact", "plan": "p", "bits_per_byte": 4, "bytes": 350_112}],
    )
    assert "more than with" in " ".join(outline(report(undrawn_folder)).text)


def test_an_absent_compressor_is_named(undrawn_folder: Path) -> None:
    rows = [{"name": "zstd 22 (unavailable)", "bytes": None, "bits_per_byte": None}]
    replace(undrawn_folder, "result.json", baselines=rows)
    assert "Not measured: zstd 22 (unavailable)." in "".join(outline(report(undrawn_folder)).text)


HOSTILE = '</style></script><script>alert(1)</script><img src=x onerror="alert(1)">'
HOSTILE += "'\"&amp;\0\x1b\u202e\ud800$\\frac{$"


def poison(data: Any) -> Any:
    """The same data with hostile text in place of every string and key's text value."""
    if isinstance(data, dict):
        return {key: value if key == "model" else poison(value) for key, value in data.items()}
    if isinstance(data, list):
        return [poison(item) for item in data]
    return HOSTILE if isinstance(data, str) else data


def test_hostile_text_stays_text(run_folder: Path, page: str) -> None:
    expected = sorted({tag for tag, _ in outline(page).tags})
    for name in ("recipe", "environment", "result"):
        path = run_folder / f"{name}.json"
        path.write_text(json.dumps(poison(json.loads(path.read_text()))))
    documents = [
        {"id": HOSTILE, "tokens": [["3c7363726970743e", 2.0], ["22206f6e6c6f61643d", 1.0], ["ff00", 3.0]]}
    ]
    (run_folder / "coloured.json").write_text(json.dumps(documents))
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "stage", "step": 1, "seconds": 1.0, "name": HOSTILE}) + "\n")
    poisoned = report(run_folder)
    parsed = outline(poisoned)
    assert sorted({tag for tag, _ in parsed.tags}) == expected
    assert not [key for _, attributes in parsed.tags for key in attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(parsed.text)
    assert "\0" not in poisoned


@pytest.mark.parametrize(
    "junk", [None, 7, "text", [], [1, [2]], {"a": {"b": []}}, [[["x"]]], {"scores": 3, "data": []}]
)
def test_files_of_another_shape_still_make_a_page(run_folder: Path, junk: Any) -> None:
    for name in ("recipe", "environment", "result", "coloured"):
        (run_folder / f"{name}.json").write_text(json.dumps(junk))
    (run_folder / "metrics.jsonl").write_text(json.dumps(junk) + "\n")
    outline(report(run_folder))


def test_numbers_that_are_none_leave_dashes(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    for section in ("artifact", "training", "data"):
        result[section] = {
            key: value if isinstance(value, str) else float("nan") for key, value in result[section].items()
        }
    result["scores"] = [{"model": "artifact", "bits_per_byte": 10**400, "bytes": True}]
    (run_folder / "result.json").write_text(json.dumps(result))
    parsed = outline(report(run_folder))
    assert "nan" not in " ".join(parsed.text).lower().split()
    assert "–" in "".join(parsed.text)
