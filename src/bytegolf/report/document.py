"""A page that needs neither network nor script, around whatever it shows."""

from importlib.resources import files

from bytegolf.report.markup import Html, join, tag

# A last line of defence behind escaping: a browser runs no script and fetches nothing for this page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, *body: Html) -> Html:
    """The whole page as markup, in the project's style."""
    return join(
        [Html("<!doctype html>\n"), tag("html", _head(title), tag("body", *body), lang="en"), Html("\n")]
    )


def section(identity: str, name: str, content: Html) -> Html:
    """A heading, which links can name, and what belongs to it."""
    heading = tag("h2", name, id=f"{identity}-heading")
    return tag("section", heading, tag("div", content), id=identity, aria_labelledby=f"{identity}-heading")


def _head(title: str) -> Html:
    style = files("bytegolf.report").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(style)),
    )
