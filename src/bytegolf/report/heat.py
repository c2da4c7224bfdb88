"""Held-out text coloured by what each token cost: `coloured.json` as markup."""

import codecs
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bytegolf.report.markup import Html, count, decimals, escape, join, tag
from bytegolf.report.run_folder import finite

# Lower bounds, in bits per byte, of the shades h1, h2, ...; h0 is below the first.
SHADES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

Token = tuple[bytes, float]


def tokens_of(document: Mapping[str, Any]) -> list[Token]:
    """(bytes, bits) of a document's well-formed tokens."""
    listed = document.get("tokens")
    return [token for token in map(_token, listed) if token] if isinstance(listed, list) else []


def _token(item: Any) -> Token | None:
    if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
        return None
    bits = finite(item[1])
    try:
        return None if bits is None else (bytes.fromhex(item[0]), bits)
    except ValueError:
        return None


def runs(tokens: Sequence[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Text with the tokens it came from: one token each, or several that share a character.

    Tokens without bytes, such as the markers of capitals, go with the one behind them.
    Bytes that are no UTF-8, with their neighbours or without, come as backslash escapes.
    """
    start = 0
    while start < len(tokens):
        stop = _whole_characters(tokens, start)
        data = b"".join(token for token, _ in tokens[start:stop])
        yield data.decode("utf-8", errors="backslashreplace"), list(tokens[start:stop])
        start = stop


def _whole_characters(tokens: Sequence[Token], start: int) -> int:
    """The end of the shortest run from `start` of whole UTF-8; one token with bytes where there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    first = start
    while first < len(tokens) and not tokens[first][0]:
        first += 1
    for stop in range(first, len(tokens)):
        try:
            decoder.decode(tokens[stop][0])
        except UnicodeDecodeError:
            break
        if not decoder.getstate()[0]:  # no bytes wait for the rest of their character
            return stop + 1
    return min(first + 1, len(tokens))


def shade(bits: float, size: int) -> int:
    """Index of the shade for so many bits over so many bytes (a token without bytes counts as one)."""
    return bisect_right(SHADES, bits / max(size, 1))


def coloured_text(tokens: Sequence[Token]) -> Html:
    """One span per token, white space kept, with the cost in its title."""
    return join(_span(text, cost) for text, cost in runs(tokens))


def _span(text: str, tokens: list[Token]) -> Html:
    size, bits = sum(len(data) for data, _ in tokens), sum(bits for _, bits in tokens)
    title = f"{decimals(bits, 2)} bits, {size} byte{'' if size == 1 else 's'}"
    if len(tokens) > 1:
        title += f", {len(tokens)} tokens"
    content = escape(text) if size else Html('<span class="end">∎</span>')
    # The mark shows what a line's end cost; it is drawn by the style sheet, so copied text stays exact.
    marked = Html(content.replace("\n", '<b class="nl"></b>\n'))
    return tag("span", marked, class_=f"h{shade(bits, size)}", title=title)


def legend() -> Html:
    bounds = ["0", *(f"{bound:g}" for bound in SHADES)]
    swatches = [tag("span", bound, class_=f"h{index}") for index, bound in enumerate(bounds)]
    return tag("p", tag("span", "bits per byte, from", class_="label"), *swatches, class_="legend")


def documents(coloured: Any) -> list[Html]:
    """Every document of `coloured.json`, the first one open."""
    made = []
    listed = coloured if isinstance(coloured, list) else []
    for document in listed:
        tokens = tokens_of(document) if isinstance(document, Mapping) else []
        size, bits = sum(len(data) for data, _ in tokens), sum(bits for _, bits in tokens)
        if size:
            lengths = f"{count(size)} bytes · {count(len(tokens))} tokens"
            facts = f"{lengths} · {decimals(bits / size, 3)} bits per byte"
            summary = tag("summary", tag("bdi", str(document.get("id", ""))), " ", tag("small", facts))
            text = tag("div", coloured_text(tokens), class_="heat", translate="no")
            made.append(tag("details", summary, text, open=not made))
    return made
