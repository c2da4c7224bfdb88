"""The report: everything a run folder holds, on one page that needs neither network nor script."""

from pathlib import Path

from bytegolf.files import atomic_write
from bytegolf.report import certificate, curves, edges, headline, sections
from bytegolf.report.document import document, section
from bytegolf.report.markup import Html, tag
from bytegolf.report.run_folder import Run, read_run


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
        ("edges", "Edges", edges.edges(run)),
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
        tag("main", headline.figures(run), headline.summary(run), *(section(*entry) for entry in present)),
    ]
    if links:
        body.insert(1, tag("nav", *links, aria_label="Sections"))
    return document(f"{headline.title(run)} – bytegolf report", *body)
