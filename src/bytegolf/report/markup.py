"""HTML from plain values. Whatever is not `Html` is escaped, so no text of a run can become markup."""

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup, safe to insert as it is."""

    __slots__ = ()


# Control characters show as their pictures (U+2400...), since browsers drop or replace them.
_PICTURES: dict[int, int | str] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {0x7F: 0x2421} | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# JSON may hold halves of surrogate pairs, which no UTF-8 file can.
_PICTURES |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}


def escape(text: str) -> Html:
    """Text as markup: special characters escaped, control characters made visible."""
    return text if isinstance(text, Html) else Html(html.escape(text.translate(_PICTURES)))


def join(parts: Iterable[str], separator: str = "") -> Html:
    return Html(escape(separator).join(escape(part) for part in parts))


def tag(name: str, *children: str, **attributes: str | bool | None) -> Html:
    """One element. `class_` stands for class; True writes a bare attribute, None and False leave it out."""
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{escape(value)}"')
    return Html(f"<{name}{''.join(written)}>{join(children)}</{name}>")


def table(
    headings: Sequence[str], body: Iterable[Sequence[str]], numeric: Iterable[int], caption: str
) -> Html:
    """A table; columns listed in `numeric` are set flush right. The first cell of each row is its heading."""
    right = set(numeric)

    def cell(index: int, content: str) -> Html:
        side = "n" if index in right else None
        return tag("th", content, scope="row", class_=side) if index == 0 else tag("td", content, class_=side)

    head = [
        tag("th", text, scope="col", class_="n" if i in right else None) for i, text in enumerate(headings)
    ]
    lines = [tag("tr", *(cell(i, content) for i, content in enumerate(row))) for row in body]
    inside = [tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *lines)]
    return tag("div", tag("table", *inside), class_="scroll", tabindex="0", role="region", aria_label=caption)


def pairs(items: Iterable[tuple[str, str]]) -> Html:
    """A list of names and values."""
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items), class_="pairs"
    )


def count(value: float | None) -> str:
    """1234567 as 1,234,567; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def decimals(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:,.{places}f}".replace("-", "−")


def short(value: float | None) -> str:
    """A count in three figures: 3.21 M, 45.6 k; a dash for None."""
    if value is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}\N{NARROW NO-BREAK SPACE}{unit}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """0.1234 as 12.3 %; never 0 % for something, never 100 % for almost all."""
    if 0 < share < 0.001:
        return "< 0.1\N{NARROW NO-BREAK SPACE}%"
    return f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 8.4 s, 4 min 12 s, 4 min, 1 h 03 min."""
    space = "\N{NARROW NO-BREAK SPACE}"
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}{space}s"
    whole = round(seconds)
    if whole < 3600:
        rest = f" {whole % 60:02d}{space}s" if whole % 60 else ""
        return f"{whole // 60}{space}min{rest}"
    return f"{whole // 3600}{space}h {whole % 3600 // 60:02d}{space}min"
