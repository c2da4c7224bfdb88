"""The report: everything a run folder holds, on one page that needs neither network nor script."""

from importlib.resources import files
from pathlib import Path

from bytegolf.files import atomic_write
from bytegolf.report import certificate, curves, headline, sections
from bytegolf.report.markup import Html, join, tag
from bytegolf.report.run_folder import Run, read_run

# A last line of defence behind escaping: a browser runs no script and fetches nothing for this page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run folder, from the files there, and returns its path.

    An unfinished run gives the page of what it has so far; the same files give the same bytes. Raises
    `BytegolfError` where the folder holds no run or a file of it is damaged.
    """
    path = run_folder / "report.html"
    atomic_write(path, page(read_run(run_folder)).encode())
    return path


def page(run: Run) -> Html:
    """The whole page as markup."""
    made = [
        ("training", "Training", curves.training(run)),
        ("comparison", "Beside classic compressors", sections.comparison(run)),
        ("scores", "Scores", sections.scores(run)),
        ("proof", "Proof", certificate.proof(run)),
        ("bytes", "Where the bytes go", sections.byte_account(run)),
        ("quantization", "Quantization", sections.quantization(run)),
        ("text", "Held-out text", sections.held_out_text(run)),
        ("samples", "Samples", sections.samples(run)),
        ("data", "Data", sections.data(run)),
        ("environment", "Environment", sections.environment(run)),
        ("recipe", "Recipe", sections.recipe(run)),
    ]
    present = [entry for entry in made if entry[2]]
    links = [tag("a", name, href=f"#{identity}") for identity, name, _ in present]
    body = [
        headline.masthead(run),
        tag("main", headline.figures(run), headline.summary(run), *(_section(*entry) for entry in present)),
    ]
    if links:
        body.insert(1, tag("nav", *links, aria_label="Sections"))
    return join(
        [Html("<!doctype html>\n"), tag("html", _head(run), tag("body", *body), lang="en"), Html("\n")]
    )


def _head(run: Run) -> Html:
    style = files("bytegolf.report").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", f"{headline.title(run)} – bytegolf report"),
        tag("style", Html(style)),
    )


def _section(identity: str, name: str, content: Html) -> Html:
    heading = tag("h2", name, id=f"{identity}-heading")
    return tag("section", heading, tag("div", content), id=identity, aria_labelledby=f"{identity}-heading")
